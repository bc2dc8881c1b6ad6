"""`gc-vc kill`: ends a virtual cluster's VMs."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import cluster_argument
from copper.cli.output import say


@click.command()
@cluster_argument
def kill(name: str) -> None:
    """End all VMs of the virtual cluster NAME at once, as a power cut would.

    Prints the names of the VMs that were ended. The virtual cluster can be booted again, from its
    image.
    """
    for vm in here.client().kill(name):
        say(vm)
