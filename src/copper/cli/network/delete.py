"""`copper network delete`: forgets a public network."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import network_argument


@click.command()
@network_argument
def delete(name: str) -> None:
    """Forget the public network NAME, which no virtual cluster may name. Prints nothing."""
    here.api().delete_network(name)
