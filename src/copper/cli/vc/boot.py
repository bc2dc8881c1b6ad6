"""`gc-vc boot`: starts a virtual cluster's master."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import cluster_argument, no_wait_option
from copper.cli.output import say


@click.command()
@cluster_argument
@no_wait_option
def boot(name: str, no_wait: bool) -> None:
    """Start the master of the virtual cluster NAME.

    Returns once the master answers, and prints its name.
    """
    answer = here.api().boot(name, wait=not no_wait)
    say(answer["id" if no_wait else "name"])
