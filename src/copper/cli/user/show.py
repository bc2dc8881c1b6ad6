"""`copper user show`: one user."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import user_argument
from copper.cli.listing import format_option, show_row
from copper.cli.user.list import COLUMNS


@click.command()
@user_argument
@format_option
def show(name: str, form: str) -> None:
    """Show the user NAME."""
    show_row(here.api().user(name), COLUMNS, form)
