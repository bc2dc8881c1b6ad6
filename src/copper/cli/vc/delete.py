"""`gc-vc delete`: forgets a virtual cluster."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import cluster_argument, no_wait_option
from copper.cli.output import say_done


@click.command()
@cluster_argument
@no_wait_option
def delete(name: str, no_wait: bool) -> None:
    """Forget the virtual cluster NAME, which must not be running. Prints nothing."""
    say_done(here.api().delete(name, wait=not no_wait))
