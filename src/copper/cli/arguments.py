"""Arguments that several verbs take, checked before anything is asked of Copper."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from copper.model.errors import BadInput
from copper.model.names import check_name, parse_vm_name

F = TypeVar("F", bound=Callable[..., Any])


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


class Amount(click.ParamType[float]):
    """A number with or without a fraction, above zero."""

    def __init__(self, name: str, most: float) -> None:
        self.name = name
        self.most = most

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value)
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII) and 0 < float(text) <= self.most:
            return float(text)
        raise BadInput(
            f"{param.opts[0] if param else self.name} {text[:40]!r}",
            advice=f"expected a number above 0, at most {self.most:g}, such as 1.5",
        )


NONE: Final = "none"  # as a value: what is set is taken away


class OrNone(click.ParamType[Any]):
    """What another type takes, or the word `none`."""

    def __init__(self, inner: click.ParamType[Any]) -> None:
        self.name = f"{inner.name}|none"
        self._inner = inner

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return NONE if value == NONE else self._inner.convert(value, param, ctx)


class Word(click.ParamType[str]):
    """A word that stands in lists: a tag, a network, a named storage, an id."""

    def __init__(self, what: str) -> None:
        self.name = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if re.fullmatch(r"[\w.:@+-]{1,100}", text, re.ASCII) and text not in (".", ".."):
            return text
        raise BadInput(f"{text[:40]!r} is not a {self.name}", advice="expected one word")


class Duration(click.ParamType[float]):
    """A time span in seconds, or with a unit: `90d`, `12h`, `15m`, `30s`."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if (seconds := span(str(value))) is not None:
            return seconds
        raise BadInput(
            f"{param.opts[0] if param else self.name} {str(value)[:40]!r}",
            advice="expected a time such as 30s, 15m, 12h or 90d",
        )


class PortPair(click.ParamType[tuple[int, int]]):
    """A host's port and a VM's, `8080:80`."""

    name = "ports"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        found = re.fullmatch(r"(\d{1,5}):(\d{1,5})", str(value), re.ASCII)
        if found and all(1 <= int(port) <= 65535 for port in found.groups()):
            return int(found[1]), int(found[2])
        raise BadInput(
            f"ports {str(value)[:40]!r}", advice="expected HOSTPORT:PORT, such as 8080:80"
        )


class Attached(click.ParamType[dict[str, Any]]):
    """A public network, and whether it is for the master alone: `NAME` or `NAME,master-only`."""

    name = "network"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, Any]:
        network, comma, only = str(value).partition(",")
        if comma and only != "master-only":
            raise BadInput(
                f"--network {str(value)[:60]!r}", advice="expected NAME or NAME,master-only"
            )
        return {"name": check_name(network, "network"), "master_only": bool(comma)}


class Moment(click.ParamType[float]):
    """A moment as seconds since 1970: written as a date, with a time or not, or as a span ago."""

    name = "when"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        import datetime
        import time

        text = str(value)
        if text[-1:] in UNITS and (seconds := span(text)) is not None:
            return time.time() - seconds
        try:
            # without a zone it is this machine's time
            return datetime.datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError, OSError):
            raise BadInput(
                f"{param.opts[0] if param else self.name} {text[:40]!r}",
                advice="expected a date such as 2026-01-31 or 2026-01-31T12:00, or 7d for a week ago",
            ) from None


UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def span(text: str) -> float | None:
    """The seconds of `90d`, `12h`, `15m`, `30s` or `30`; None for anything else."""
    found = re.fullmatch(r"(\d{1,9})([smhd]?)", text, re.ASCII)
    if not found or int(found[1]) == 0:
        return None
    return float(int(found[1]) * UNITS[found[2] or "s"])


CLUSTER = Name("virtual cluster")
IMAGE = Name("image")
USER = Name("user")
VM = VmName()
MEMORY = Number("mib", 32, 1 << 20, step=2)  # as copper.model.machine.Shape has them
CPUS = Number("n", 1, 64)
DISK = Number("mib", 32, 1 << 24)
MANY = Number("n", 1, 1 << 20)  # as copper.model.api.Limits and copper.model.users.Quota have them
MUCH_MEMORY = Number("mib", 1, 1 << 30)
CLONES = Number("n", 1, 1024)

cluster_argument = click.argument("name", type=CLUSTER)
vm_argument = click.argument("vm", type=VM)
network_argument = click.argument("name", type=Name("network"))
user_argument = click.argument("name", type=USER)
memory_option = click.option("--memory", "memory_mib", type=MEMORY, help="Memory of each VM, MiB.")
cpus_option = click.option("--cpus", type=CPUS, help="Processors of each VM.")
no_wait_option = click.option(
    "--no-wait", is_flag=True, help="Print the operation's id at once: copper operation wait ID."
)


def most_options(whose: str) -> Callable[[F], F]:
    """`--max-vms`, `--max-cpus` and `--max-memory`; `none` takes one away."""

    def decorated(command: F) -> F:
        for name, kind, what in (
            ("--max-memory", MUCH_MEMORY, "Memory, MiB, as reserved"),
            ("--max-cpus", MANY, "Processors"),
            ("--max-vms", MANY, "VMs"),
        ):
            command = click.option(name, type=OrNone(kind), help=f"{what} of {whose} at most.")(
                command
            )
        return command

    return decorated


def most(
    before: dict[str, Any], max_vms: Any, max_cpus: Any, max_memory: Any
) -> dict[str, int | None]:
    """The limits that the options ask for; what is not given stays as it was."""
    options = {"vms": max_vms, "cpus": max_cpus, "memory_mib": max_memory}
    return {name: changed(before.get(name), value) for name, value in options.items()}


def changed(before: Any, value: Any) -> Any:
    """A value after an option that takes `none`."""
    if value is None:
        return before
    return None if value == NONE else value
