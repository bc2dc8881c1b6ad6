"""`gc-vm list`: all VMs, or those of one virtual cluster."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import CLUSTER
from copper.cli.listing import Column, format_option, list_rows, words

# copper.model.api.VmState
STATES = ["starting", "running", "paused", "suspended", "ending", "dead"]
COLUMNS = [
    Column("name", "name"),
    Column("vmid", "vmid", right=True),
    Column("address", "ip"),
    Column("generation", "generation", right=True),
    Column("parent", "parent", right=True),
    Column("state", "state"),
    Column("host", "host"),
    Column("public", "public", words),
]


@click.command(name="list")
@click.argument("cluster", type=CLUSTER, required=False, metavar="[VC]")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@format_option
def list_(cluster: str | None, state: str | None, form: str) -> None:
    """List the VMs, or those of the virtual cluster VC."""
    api = here.api()
    rows = api.vms(cluster, state=state)
    if cluster is not None and not rows:
        api.cluster(cluster)  # none is not the same as no such cluster
    list_rows(rows, COLUMNS, form)
