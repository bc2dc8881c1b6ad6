"""`gc-vc show`: one virtual cluster."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import cluster_argument
from copper.cli.listing import Column, format_option, mib, moment, show_row
from copper.cli.vc.list import COLUMNS

MORE = [
    Column("disk", "shape.disk_bytes", mib),
    Column("next vmid", "next_vmid"),
    Column("created", "created", moment),
]


@click.command()
@cluster_argument
@format_option
def show(name: str, form: str) -> None:
    """Show the virtual cluster NAME."""
    from copper.client.calls import cluster_path

    show_row(here.client().call("GET", cluster_path(name)), COLUMNS + MORE, form)
