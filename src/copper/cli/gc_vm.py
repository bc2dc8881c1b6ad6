"""`gc-vm`: one VM."""

from __future__ import annotations

import click

import copper
from copper.cli.run import run
from copper.cli.vm.clone import clone
from copper.cli.vm.connect import connect
from copper.cli.vm.console import console
from copper.cli.vm.exec import exec_
from copper.cli.vm.kill import kill
from copper.cli.vm.list import list_
from copper.cli.vm.log import log
from copper.cli.vm.pull import pull
from copper.cli.vm.push import push
from copper.cli.vm.show import show
from copper.cli.vm.ssh import ssh


@click.group(name="gc-vm")
@click.version_option(copper.__version__, message="%(prog)s %(version)s")
def group() -> None:
    """Single VMs, named CLUSTER-VMID: demo-0 is the master of demo."""


for verb in (list_, show, clone, exec_, push, pull, console, ssh, connect, log, kill):
    group.add_command(verb)


def main() -> None:
    run(group, "gc-vm")
