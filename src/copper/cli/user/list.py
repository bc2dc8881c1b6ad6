"""`copper user list`: all users."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.listing import Column, format_option, list_rows, moment, most

COLUMNS = [
    Column("name", "name"),
    Column("role", "role"),
    Column("vms", "quota.vms", most, right=True),
    Column("cpus", "quota.cpus", most, right=True),
    Column("memory (MiB)", "quota.memory_mib", most, right=True),
    Column("created", "created", moment),
]


@click.command(name="list")
@format_option
def list_(form: str) -> None:
    """List the users, and the most that each may have."""
    list_rows(here.api().users(), COLUMNS, form)
