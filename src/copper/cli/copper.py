"""`copper`: the Copper of a machine, its images, users and state, its demonstration and its bench."""

from __future__ import annotations

import click

import copper
from copper.cli import image, network, operation, ticket, token, user
from copper.cli.audit import audit
from copper.cli.bench import bench
from copper.cli.demo import demo
from copper.cli.dns import dns
from copper.cli.events import events
from copper.cli.node.doctor import doctor
from copper.cli.node.down import down
from copper.cli.node.up import up
from copper.cli.run import run
from copper.cli.whoami import whoami


@click.group(name="copper")
@click.version_option(copper.__version__, message="%(prog)s %(version)s")
def group() -> None:
    """Copper forks running virtual machines.

    See also gc-vc (virtual clusters), gc-vm (one VM) and gc-host (machines).
    """


for verb in (
    *(up, down, doctor, image.group, demo, bench),
    *(whoami, user.group, token.group, network.group, operation.group, ticket.group, events, audit),
    dns,
):
    group.add_command(verb)


def main() -> None:
    run(group, "copper")
