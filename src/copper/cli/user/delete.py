"""`copper user delete`: forgets a user and their tokens."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import user_argument


@click.command()
@user_argument
def delete(name: str) -> None:
    """Forget the user NAME, who must have no virtual clusters, and their tokens. Prints nothing."""
    here.api().delete_user(name)
