"""`gc-vc list`: all virtual clusters."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import USER
from copper.cli.listing import Column, format_option, list_rows, number_of_mib

STATES = ["defined", "running", "paused", "suspended"]  # copper.model.api.ClusterState
COLUMNS = [
    Column("name", "name"),
    Column("state", "state"),
    Column("vms", "vms", right=True),
    Column("image", "image"),
    Column("memory", "shape.memory_mib", number_of_mib, right=True),
    Column("cpus", "shape.cpus", right=True),
    Column("owner", "owner"),
]


@click.command(name="list")
@click.option("--owner", type=USER, help="Only this user's.")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@format_option
def list_(owner: str | None, state: str | None, form: str) -> None:
    """List the virtual clusters."""
    list_rows(here.api().clusters(owner=owner, state=state), COLUMNS, form)
