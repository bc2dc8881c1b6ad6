"""`copper image list`: stored images."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.listing import Column, format_option, list_rows, mib, moment, number_of_mib

COLUMNS = [
    Column("name", "name"),
    Column("recipe", "recipe"),
    Column("created", "created", moment),
    Column("memory", "memory_mib", number_of_mib, right=True),
    Column("cpus", "cpus", right=True),
    Column("disk", "disk_bytes", mib, right=True),
    Column("stored", "stored_bytes", mib, right=True),
    Column("accelerator", "accelerator"),
    Column("users", "users", lambda users: " ".join(users) if users else "-"),
]


@click.command(name="list")
@format_option
def list_(form: str) -> None:
    """List the stored images."""
    list_rows(here.api().images(), COLUMNS, form)
