"""`gc-vc boot`: starts a virtual cluster's master."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import cluster_argument
from copper.cli.output import say


@click.command()
@cluster_argument
def boot(name: str) -> None:
    """Start the master of the virtual cluster NAME.

    Returns once the master answers, and prints its name.
    """
    from copper.client.calls import cluster_path

    say(here.client().call("POST", f"{cluster_path(name)}/boot")["name"])
