"""`copper ticket list`: promised room."""

from __future__ import annotations

from typing import Any

import click

from copper.cli import here
from copper.cli.arguments import CLUSTER
from copper.cli.listing import Column, format_option, list_rows, mib, moment


def places(value: Any) -> str:
    """`host:3` for each host with a part of it."""
    return " ".join(f"{host}:{vms}" for host, vms in (value or {}).items()) or "-"


COLUMNS = [
    Column("id", "id"),
    Column("cluster", "cluster"),
    Column("holder", "holder", right=True),
    Column("status", "status"),
    Column("vms", "vms", right=True),
    Column("cpus", "cpus", right=True),
    Column("per vm", "vm_bytes", mib, right=True),
    Column("hosts", "places", places),
    Column("owner", "owner"),
    Column("created", "created", moment),
]


@click.command(name="list")
@click.argument("cluster", type=CLUSTER, required=False, metavar="[VC]")
@format_option
def list_(cluster: str | None, form: str) -> None:
    """List the tickets, or those of the virtual cluster VC.

    A used one goes when its last VM does; one that nobody uses is taken back after a while.
    """
    list_rows(here.api().tickets(cluster), COLUMNS, form, name="id")
