"""`gc-vc list`: all virtual clusters."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.listing import Column, format_option, list_rows, number_of_mib

COLUMNS = [
    Column("name", "name"),
    Column("state", "state"),
    Column("vms", "vms", right=True),
    Column("image", "image"),
    Column("memory", "shape.memory_mib", number_of_mib, right=True),
    Column("cpus", "shape.cpus", right=True),
]


@click.command(name="list")
@format_option
def list_(form: str) -> None:
    """List the virtual clusters."""
    list_rows(here.client().call("GET", "/v1/clusters"), COLUMNS, form)
