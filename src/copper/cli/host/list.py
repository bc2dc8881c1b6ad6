"""`gc-host list`: the machines that VMs run on."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.listing import Column, format_option, list_rows, mib

COLUMNS = [
    Column("name", "name"),
    Column("vms", "vms", right=True),
    Column("standbys", "standbys", right=True),
    Column("cpus", "cpus", right=True),
    Column("memory", "memory_bytes", mib, right=True),
    Column("free", "free_bytes", mib, right=True),
    Column("accelerator", "accelerator"),
    Column("qemu", "qemu"),
]


@click.command(name="list")
@format_option
def list_(form: str) -> None:
    """List the hosts."""
    list_rows(here.client().call("GET", "/v1/hosts"), COLUMNS, form)
