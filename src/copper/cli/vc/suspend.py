"""`gc-vc suspend`: puts a virtual cluster on disk."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import cluster_argument, no_wait_option
from copper.cli.output import say_done


@click.command()
@cluster_argument
@no_wait_option
def suspend(name: str, no_wait: bool) -> None:
    """Put all VMs of the virtual cluster NAME on disk, as they are at one instant.

    Their memory and processes are free then. Prints their names. gc-vc resume gives every VM back
    as it was, also after this machine was started anew.
    """
    say_done(here.api().suspend(name, wait=not no_wait))
