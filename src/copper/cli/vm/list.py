"""`gc-vm list`: all VMs, or those of one virtual cluster."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import CLUSTER
from copper.cli.listing import Column, format_option, list_rows

COLUMNS = [
    Column("name", "name"),
    Column("vmid", "vmid", right=True),
    Column("address", "ip"),
    Column("generation", "generation", right=True),
    Column("parent", "parent", right=True),
    Column("state", "state"),
    Column("host", "host"),
]


@click.command(name="list")
@click.argument("cluster", type=CLUSTER, required=False, metavar="[VC]")
@format_option
def list_(cluster: str | None, form: str) -> None:
    """List the VMs, or those of the virtual cluster VC."""
    from copper.client.calls import cluster_path, vms_path

    client = here.client()
    rows = client.call("GET", vms_path(cluster))
    if cluster is not None and not rows:
        client.call("GET", cluster_path(cluster))  # none is not the same as no such cluster
    list_rows(rows, COLUMNS, form)
