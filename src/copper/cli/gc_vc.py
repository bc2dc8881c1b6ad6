"""`gc-vc`: virtual clusters."""

from __future__ import annotations

import click

import copper
from copper.cli.run import run
from copper.cli.vc.boot import boot
from copper.cli.vc.create import create
from copper.cli.vc.delete import delete
from copper.cli.vc.egress import egress
from copper.cli.vc.forward import forward
from copper.cli.vc.kill import kill
from copper.cli.vc.limit import limit
from copper.cli.vc.list import list_
from copper.cli.vc.pause import pause
from copper.cli.vc.resume import resume
from copper.cli.vc.show import show
from copper.cli.vc.suspend import suspend
from copper.cli.vc.unpause import unpause
from copper.cli.vc.usage import usage


@click.group(name="gc-vc")
@click.version_option(copper.__version__, message="%(prog)s %(version)s")
def group() -> None:
    """Virtual clusters: each is a master VM and all that is forked from it."""


for verb in (
    *(create, boot, list_, show, limit, egress, forward, usage),
    *(pause, unpause, suspend, resume, kill, delete),
):
    group.add_command(verb)


def main() -> None:
    run(group, "gc-vc")
