"""`gc-vc resume`: brings a suspended virtual cluster back."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import cluster_argument, no_wait_option
from copper.cli.output import say_done


@click.command()
@cluster_argument
@no_wait_option
def resume(name: str, no_wait: bool) -> None:
    """Bring all VMs of the suspended virtual cluster NAME back, as they were.

    Prints their names once they answer.
    """
    say_done(here.api().resume(name, wait=not no_wait))
