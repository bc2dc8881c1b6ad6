"""The verbs of `copper network`: public networks."""

from __future__ import annotations

import click

from copper.cli.network.create import create
from copper.cli.network.delete import delete
from copper.cli.network.list import list_
from copper.cli.network.show import show


@click.group(name="network")
def group() -> None:
    """Public networks: pools of addresses that virtual clusters can have some of."""


for verb in (create, list_, show, delete):
    group.add_command(verb)
