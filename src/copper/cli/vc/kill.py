"""`gc-vc kill`: ends a virtual cluster's VMs."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import cluster_argument, no_wait_option
from copper.cli.output import say_done


@click.command()
@cluster_argument
@no_wait_option
def kill(name: str, no_wait: bool) -> None:
    """End all VMs of the virtual cluster NAME at once, as a power cut would.

    Prints the names of the VMs that were ended. The virtual cluster can be booted again, from its
    image.
    """
    say_done(here.api().kill(name, wait=not no_wait))
