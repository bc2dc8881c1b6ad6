"""`gc-host`: the machines that VMs run on."""

from __future__ import annotations

import click

import copper
from copper.cli.host.list import list_
from copper.cli.host.stat import stat
from copper.cli.run import run


@click.group(name="gc-host")
@click.version_option(copper.__version__, message="%(prog)s %(version)s")
def group() -> None:
    """Hosts: the machines that VMs run on."""


for verb in (list_, stat):
    group.add_command(verb)


def main() -> None:
    run(group, "gc-host")
