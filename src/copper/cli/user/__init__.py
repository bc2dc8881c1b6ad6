"""The verbs of `copper user`: who may ask Copper for what."""

from __future__ import annotations

import click

from copper.cli.user.change import change
from copper.cli.user.create import create
from copper.cli.user.delete import delete
from copper.cli.user.list import list_
from copper.cli.user.show import show


@click.group(name="user")
def group() -> None:
    """Users: who may ask Copper for what, and how much."""


for verb in (create, list_, show, change, delete):
    group.add_command(verb)
