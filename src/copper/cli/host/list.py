"""`gc-host list`: the machines that VMs run on."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.listing import Column, format_option, list_rows, mib, words

COLUMNS = [
    Column("name", "name"),
    Column("vms", "vms", right=True),
    Column("standbys", "standbys", right=True),
    Column("cpus", "cpus", right=True),
    Column("reserved", "reserved_cpus", right=True),
    Column("memory", "memory_bytes", mib, right=True),
    Column("free", "free_bytes", mib, right=True),
    Column("reserved", "reserved_bytes", mib, right=True),
    Column("accelerator", "accelerator"),
    Column("qemu", "qemu"),
    Column("tags", "tags", words),
]


@click.command(name="list")
@format_option
def list_(form: str) -> None:
    """List the hosts.

    Reserved is what VMs and unused tickets were promised: of processors it may be more than there
    are, of memory it is what they are expected to write.
    """
    list_rows(here.api().hosts(), COLUMNS, form)
