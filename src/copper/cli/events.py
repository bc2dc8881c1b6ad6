"""`copper events`: what changes, as it changes."""

from __future__ import annotations

import json

import click

from copper.cli import here
from copper.cli.arguments import CLUSTER, Word
from copper.cli.output import flush, say


@click.command()
@click.option(
    "--after", type=Word("position"), metavar="ID", help="Begin after the change with this id."
)
@click.option("--cluster", type=CLUSTER, help="Only what is about this virtual cluster.")
def events(after: str | None, cluster: str | None) -> None:
    """Print every change from now on, a line of JSON each, until Ctrl-C.

    None is skipped, also when Copper was started anew meanwhile. A position that is too long ago
    is a conflict (exit status 5): list what there is, and begin anew.
    """
    for change in here.api().events(cluster, after=after):
        say(json.dumps(change, ensure_ascii=False))
        flush()
