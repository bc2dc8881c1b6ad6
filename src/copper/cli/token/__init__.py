"""The verbs of `copper token`: what users show to be let in."""

from __future__ import annotations

import click

from copper.cli.token.create import create
from copper.cli.token.list import list_
from copper.cli.token.revoke import revoke


@click.group(name="token")
def group() -> None:
    """Tokens: what a user shows to be let in from elsewhere."""


for verb in (create, list_, revoke):
    group.add_command(verb)
