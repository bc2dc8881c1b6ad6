"""`gc-vc limit`: what a virtual cluster may have, shown or changed."""

from __future__ import annotations

from typing import Any

import click

from copper.cli import here
from copper.cli.arguments import (
    MUCH_MEMORY,
    Amount,
    OrNone,
    changed,
    cluster_argument,
    most,
    most_options,
)
from copper.cli.listing import Column, format_option, show_row
from copper.cli.listing import most as shown

MIB = 1 << 20
COLUMNS = [
    Column("vms", "limits.vms", shown),
    Column("cpus", "limits.cpus", shown),
    Column("memory (MiB)", "limits.memory_mib", shown),
    Column("cpus of a vm", "vm_limits.cpus", shown),
    Column(
        "memory of a vm (MiB)",
        "vm_limits.own_bytes",
        lambda value: shown(None if value is None else value // MIB),
    ),
]


@click.command()
@cluster_argument
@most_options("it")
@click.option(
    "--vm-cpus", type=OrNone(Amount("x", 64)), help="Processors' time of each VM, such as 1.5."
)
@click.option("--vm-memory", type=OrNone(MUCH_MEMORY), help="Memory of each VM's own at most, MiB.")
@format_option
def limit(
    name: str,
    max_vms: Any,
    max_cpus: Any,
    max_memory: Any,
    vm_cpus: Any,
    vm_memory: Any,
    form: str,
) -> None:
    """Show the limits of the virtual cluster NAME, or change those that are given.

    They hold at once, for VMs that run as well; VMs that there are already are never ended by it.
    The value none takes a limit away.
    """
    api = here.api()
    row = api.cluster(name)
    of_all, of_each = (max_vms, max_cpus, max_memory), (vm_cpus, vm_memory)
    given = {}
    if any(value is not None for value in of_all):
        given["limits"] = most(row["limits"], *of_all)
    if any(value is not None for value in of_each):
        before = row["vm_limits"]
        own = vm_memory * MIB if isinstance(vm_memory, int) else vm_memory
        given["vm_limits"] = {
            "cpus": changed(before["cpus"], vm_cpus),
            "own_bytes": changed(before["own_bytes"], own),
        }
    if given:
        api.limit(name, **given)
    else:
        show_row(row, COLUMNS, form)
