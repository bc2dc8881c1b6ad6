"""`copper ticket release`: gives promised room back."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import Word


@click.command()
@click.argument("ticket", type=Word("ticket"), metavar="ID")
def release(ticket: str) -> None:
    """Take the unused ticket ID back. Prints nothing. A used one is a conflict."""
    here.api().release_ticket(ticket)
