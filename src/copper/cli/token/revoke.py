"""`copper token revoke`: a token that lets nobody in any more."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import Word, user_argument


@click.command()
@user_argument
@click.argument("token", type=Word("token's id"), metavar="ID")
def revoke(name: str, token: str) -> None:
    """End the token ID of the user NAME at once. Prints nothing."""
    here.api().revoke_token(name, token)
