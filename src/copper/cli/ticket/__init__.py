"""The verbs of `copper ticket`: room for clones that was promised."""

from __future__ import annotations

import click

from copper.cli.ticket.list import list_
from copper.cli.ticket.release import release


@click.group(name="ticket")
def group() -> None:
    """Tickets: room for clones that was promised."""


for verb in (list_, release):
    group.add_command(verb)
