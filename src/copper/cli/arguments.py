"""Arguments that several verbs take, checked before anything is asked of Copper."""

from __future__ import annotations

from typing import Any

import click

from copper.model.errors import BadInput
from copper.model.names import check_name, parse_vm_name


class Name(click.ParamType[str]):
    """The name of a virtual cluster or an image."""

    def __init__(self, what: str) -> None:
        self.name = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return check_name(value, self.name)


class VmName(click.ParamType[str]):
    """The name of a VM, CLUSTER-VMID."""

    name = "VM"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        parse_vm_name(value)
        return str(value)


class Number(click.ParamType[int]):
    """A whole number in a range, of a step."""

    def __init__(self, name: str, least: int, most: int, step: int = 1) -> None:
        self.name = name
        self.least, self.most, self.step = least, most, step

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        digits = text.isascii() and text.isdecimal() and len(text) < 20
        if digits and self.least <= int(text) <= self.most and int(text) % self.step == 0:
            return int(text)
        kind = "an even number" if self.step == 2 else "a number"
        raise BadInput(
            f"{param.opts[0] if param else self.name} {text[:40]!r}",
            advice=f"expected {kind} from {self.least} to {self.most}",
        )


CLUSTER = Name("virtual cluster")
IMAGE = Name("image")
VM = VmName()
MEMORY = Number("mib", 32, 1 << 20, step=2)  # as copper.model.machine.Shape has them
CPUS = Number("n", 1, 64)
DISK = Number("mib", 32, 1 << 24)

cluster_argument = click.argument("name", type=CLUSTER)
vm_argument = click.argument("vm", type=VM)
memory_option = click.option("--memory", "memory_mib", type=MEMORY, help="Memory of each VM, MiB.")
cpus_option = click.option("--cpus", type=CPUS, help="Processors of each VM.")
