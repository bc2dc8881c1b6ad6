"""`gc-vc pause`: stops a virtual cluster's processors."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import cluster_argument, no_wait_option
from copper.cli.output import say_done


@click.command()
@cluster_argument
@no_wait_option
def pause(name: str, no_wait: bool) -> None:
    """Stop all VMs of the virtual cluster NAME, which keep their memory.

    Prints the names of the VMs that were stopped. gc-vc unpause lets them run on.
    """
    say_done(here.api().pause(name, wait=not no_wait))
