"""`copper token create`: lets a user in from elsewhere."""

from __future__ import annotations

from typing import Any

import click

from copper.cli import here
from copper.cli.arguments import NONE, Duration, OrNone, user_argument
from copper.cli.output import say


@click.command()
@user_argument
@click.option(
    "--expires",
    type=OrNone(Duration()),
    default="90d",
    show_default=True,
    help="When it ends; none: never.",
)
@click.option("--note", default="", help="What it is for, as copper token list shows it.")
def create(name: str, expires: Any, note: str) -> None:
    """Make a token for the user NAME, and print its secret: it cannot be shown again.

    It goes into COPPER_TOKEN, beside COPPER_URL=https://HOST:PORT.
    """
    expires_in_s = None if expires == NONE else expires
    issued = here.api().create_token(name, expires_in_s=expires_in_s, note=note)
    say(issued["secret"])
