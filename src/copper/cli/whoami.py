"""`copper whoami`: who asks."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.listing import Column, format_option, show_row

COLUMNS = [Column("name", "name"), Column("role", "role")]


@click.command()
@format_option
def whoami(form: str) -> None:
    """Show as whom Copper takes you, and your role."""
    show_row(here.api().whoami(), COLUMNS, form)
