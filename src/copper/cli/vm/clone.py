"""`gc-vm clone`: forks a VM from outside."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import CLONES, no_wait_option, vm_argument
from copper.cli.output import say, say_done


@click.command()
@vm_argument
@click.argument("count", type=CLONES, metavar="N")
@no_wait_option
def clone(vm: str, count: int, no_wait: bool) -> None:
    """Fork VM: N clones with its memory, processes and disk, or none.

    Prints the clones' names once all of them answer. No program in VM asked for it, so none of
    them is told its vmid: gc vmid says it.
    """
    answer = here.api().clone_vm(vm, count=count, wait=not no_wait)
    if no_wait:
        say_done(answer)
        return
    for one in answer:
        say(one["name"])
