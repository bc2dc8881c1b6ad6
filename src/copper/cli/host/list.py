"""`gc-host list`: the machines that VMs run on."""

from __future__ import annotations

from typing import Any

import click

from copper.cli import here
from copper.cli.listing import Column, format_option, list_rows, mib, words

COLUMNS = [
    Column("name", "name"),
    Column("vms", "vms", right=True),
    Column("standbys", "standbys", right=True),
    Column("cpus", "cpus", right=True),
    Column("promised", "reserved_cpus", right=True),
    Column("memory", "memory_bytes", mib, right=True),
    Column("free", "free_bytes", mib, right=True),
    Column("promised", "reserved_bytes", mib, right=True),
    Column("accelerator", "accelerator"),
    Column("qemu", "qemu"),
    Column("tags", "tags", words),
]


# copper.model.api.VmState: those that hold a part of their host
HELD = ("starting", "running", "paused", "ending")


@click.command(name="list")
@format_option
def list_(form: str) -> None:
    """List the hosts.

    Promised is what VMs and unused tickets hold: of processors it may be more than there are, of
    memory it is what they are expected to write.
    """
    api = here.api()
    hosts = api.hosts()
    if form in ("table", "csv"):
        promised = _promised(api)
        hosts = [{**host, **promised.get(host["name"], NOTHING)} for host in hosts]
    list_rows(hosts, COLUMNS, form)


NOTHING = {"reserved_cpus": 0, "reserved_bytes": 0}


def _promised(api: Any) -> dict[str, dict[str, int]]:
    """What is held of each host, by its name."""
    sums: dict[str, dict[str, int]] = {}

    def add(host: str, cpus: int, memory: int) -> None:
        total = sums.setdefault(host, dict(NOTHING))
        total["reserved_cpus"] += cpus
        total["reserved_bytes"] += memory

    for vm in api.iter_vms():
        if vm["state"] in HELD:
            add(vm["host"], vm["cpus"], vm["reserved_bytes"])
    for ticket in api.iter_tickets():
        if ticket["status"] == "granted":
            for host, vms in ticket["places"].items():
                add(host, vms * ticket["cpus"] // ticket["vms"], vms * ticket["vm_bytes"])
    return sums
