"""The verbs of `copper image`: stored images."""

from __future__ import annotations

import click

from copper.cli.image.build import build
from copper.cli.image.delete import delete
from copper.cli.image.import_ import import_
from copper.cli.image.list import list_


@click.group(name="image")
def group() -> None:
    """Stored images, which virtual clusters boot from."""


for verb in (build, import_, list_, delete):
    group.add_command(verb)
