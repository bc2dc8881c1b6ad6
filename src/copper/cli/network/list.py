"""`copper network list`: all public networks."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.listing import Column, format_option, list_rows, words

COLUMNS = [
    Column("name", "name"),
    Column("mode", "mode"),
    Column("bridge", "bridge"),
    Column("size", "size", right=True),
    Column("left", "left", right=True),
    Column("hosts", "hosts", words),
    Column("pool", "pool", words),
]


@click.command(name="list")
@format_option
def list_(form: str) -> None:
    """List the public networks, and for how many VMs they have addresses left.

    Who is no administrator is told their names.
    """
    list_rows(here.api().networks(), COLUMNS, form)
