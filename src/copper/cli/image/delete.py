"""`copper image delete`: removes a stored image."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import IMAGE


@click.command()
@click.argument("name", type=IMAGE)
def delete(name: str) -> None:
    """Delete the stored image NAME; refused while a virtual cluster stands on it."""
    here.api().delete_image(name)
