"""`gc-vm kill`: ends single VMs."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import VM
from copper.cli.vm.transfer import each


@click.command()
@click.argument("vms", type=VM, nargs=-1, required=True, metavar="VM…")
def kill(vms: tuple[str, ...]) -> None:
    """End VMs at once, as a power cut would. Prints nothing.

    When some of several could not be ended, each is named and the exit status is 7.
    """
    each(dict.fromkeys(vms), here.api().kill_vm, "VMs were ended")
