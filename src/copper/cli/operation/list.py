"""`copper operation list`: long work."""

from __future__ import annotations

from typing import Any

import click

from copper.cli import here
from copper.cli.arguments import CLUSTER, Word
from copper.cli.listing import Column, format_option, list_rows, moment

STATES = ["running", "done", "failed", "cancelled"]  # copper.model.operations.OperationState
OPERATION = Word("operation's id")
COLUMNS = [
    Column("id", "id"),
    Column("kind", "kind"),
    Column("cluster", "cluster"),
    Column("owner", "owner"),
    Column("state", "state"),
    Column("done", "done", right=True),
    Column("of", "parts", right=True),
    Column("created", "created", moment),
    Column("ended", "ended", moment),
]

operation_argument = click.argument("operation", type=OPERATION, metavar="ID")


@click.command(name="list")
@click.argument("cluster", type=CLUSTER, required=False, metavar="[VC]")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@format_option
def list_(cluster: str | None, state: str | None, form: str) -> None:
    """List what runs and what ended lately, or that of the virtual cluster VC."""
    query: dict[str, Any] = {"state": state}
    list_rows(here.api().operations(cluster, **query), COLUMNS, form, name="id")
