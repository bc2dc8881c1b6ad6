"""`gc-host stat`: how full a host is, in the lines that existing scripts read."""

from __future__ import annotations

from typing import Any

import click

from copper.cli import here
from copper.cli.host.list import COLUMNS, HELD
from copper.cli.listing import format_option, show_row
from copper.cli.output import say
from copper.model.errors import BadInput

MIB = 1 << 20
MB = 1_000_000


@click.command()
@click.argument("host")
@format_option
def stat(host: str, form: str) -> None:
    """Show how much of HOST is in use, of how much it has.

    Processors and memory (MiB) in use are what its VMs were made with, which can be more than all:
    clones share what they have not changed.
    """
    if not host or len(host) > 253 or "/" in host:
        raise BadInput(f"{host[:60]!r} is not a host", advice="gc-host list names them")
    api = here.api()
    facts = api.host(host)
    if form != "table":
        columns = [column for column in COLUMNS if column.title != "promised"]
        show_row(facts, columns, form)
        return
    vms = [vm for vm in api.vms(host=host) if vm["state"] in HELD]
    clusters = {vm["cluster"] for vm in vms}
    used = {
        storage
        for cluster in (api.clusters() if facts["storage"] and clusters else [])
        if cluster["name"] in clusters
        for storage in cluster["requires"]["storage"]
    }
    lines = [
        *_shares(facts, vms),
        ("Available Named Storage", repr(facts["storage"])),
        ("Used Named Storage", repr(sorted(used))),
        # Copper gives its VMs none of these, so there are none; scripts ask for the lines
        ("Available PCI Devices", "[]"),
        ("Used PCI Devices", "[]"),
        ("Available Networks", repr(facts["networks"])),
        ("Available Tags", repr(facts["tags"])),
    ]
    width = max(len(label) for label, _ in lines)
    for label, value in lines:
        say(f"{label:>{width}} {value}")


def _shares(facts: dict[str, Any], vms: list[dict[str, Any]]) -> list[tuple[str, str]]:
    cpus = sum(vm["cpus"] for vm in vms)
    memory = sum(vm["memory_mib"] for vm in vms)
    disk = facts["disk_bytes"] // MB
    used = disk - facts["disk_free_bytes"] // MB
    return [
        ("CPU(s)", _share(cpus, facts["cpus"])),
        ("RAM", _share(memory, facts["memory_bytes"] // MIB)),
        ("Local disk", _share(used, disk, " MB")),
    ]


def _share(used: int, whole: int, unit: str = "") -> str:
    return f"{used} of {whole}{unit} ({used * 100 // whole if whole else 0}%)"
