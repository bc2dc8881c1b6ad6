"""`gc-vc delete`: forgets a virtual cluster."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import cluster_argument


@click.command()
@cluster_argument
def delete(name: str) -> None:
    """Forget the virtual cluster NAME, which must not be running. Prints nothing."""
    here.client().delete(name)
