"""`copper`: the Copper of this machine, its images, its demonstration and its bench."""

from __future__ import annotations

import click

import copper
from copper.cli.bench import bench
from copper.cli.demo import demo
from copper.cli.image.build import build
from copper.cli.image.delete import delete
from copper.cli.image.list import list_
from copper.cli.node.doctor import doctor
from copper.cli.node.down import down
from copper.cli.node.up import up
from copper.cli.run import run


@click.group(name="copper")
@click.version_option(copper.__version__, message="%(prog)s %(version)s")
def group() -> None:
    """Copper forks running virtual machines.

    See also gc-vc (virtual clusters), gc-vm (one VM) and gc-host (machines).
    """


@click.group()
def image() -> None:
    """Stored images, which virtual clusters boot from."""


for verb in (build, list_, delete):
    image.add_command(verb)
for verb in (up, down, doctor, image, demo, bench):
    group.add_command(verb)


def main() -> None:
    run(group, "copper")
