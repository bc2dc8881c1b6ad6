"""`gc-vc unpause`: lets a paused virtual cluster run on."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import cluster_argument, no_wait_option
from copper.cli.output import say_done


@click.command()
@cluster_argument
@no_wait_option
def unpause(name: str, no_wait: bool) -> None:
    """Let all VMs of the paused virtual cluster NAME run on.

    Prints their names.
    """
    say_done(here.api().unpause(name, wait=not no_wait))
