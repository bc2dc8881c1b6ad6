"""The verbs of `copper operation`: long work, and how far it is."""

from __future__ import annotations

import click

from copper.cli.operation.cancel import cancel
from copper.cli.operation.list import list_
from copper.cli.operation.show import show
from copper.cli.operation.wait import wait


@click.group(name="operation")
def group() -> None:
    """Operations: long work, and how far it is."""


for verb in (list_, show, wait, cancel):
    group.add_command(verb)
