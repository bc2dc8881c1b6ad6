"""`copper down`: ends the Copper of this machine, and its VMs."""

from __future__ import annotations

import os
import select
import signal

import click

from copper.cli import here
from copper.cli.output import say
from copper.model.errors import NotFound, TimedOut
from copper.model.settings import Settings

END_S = 60.0


@click.command()
@click.option("--keep-vms", is_flag=True, help="VMs run on; copper up finds them again.")
def down(keep_vms: bool) -> None:
    """End Copper and all VMs of this machine, at once, as a power cut would end them.

    Says what it ends. Virtual clusters and images stay, and can be booted again after copper up.
    """
    from copper.client import Client
    from copper.client.http import NotRunning

    settings = here.settings()
    client = Client(settings)
    try:
        pid = client.health().pid
    except NotRunning:
        left = 0 if keep_vms else _end_strays(settings)
        say(f"ended {_count(left)}" if left else "Copper does not run here")
        return
    if not keep_vms:
        for cluster in client.clusters():
            try:
                ended = client.kill(cluster.name)
            except NotFound:
                continue  # somebody deleted it just now
            if ended:
                say(f"ended {_count(len(ended))} of {cluster.name}")
        for status in client.statuses():  # those that no virtual cluster knows of
            client.end(status.name)
            say(f"ended {status.name}")
    left = len(client.statuses())
    _end_process(pid)
    if not keep_vms:
        _end_strays(settings)
    say(f"ended Copper; {_count(left)} run on" if left else "ended Copper")


def _end_process(pid: int) -> None:
    """Asks it to end, and waits. Raises TimedOut."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if not select.select([process], [], [], END_S)[0]:
            raise TimedOut(
                f"Copper, process {pid}, did not end within {END_S:.0f} s",
                advice=f"kill -9 {pid} ends it; VMs run on",
            )
    except ProcessLookupError:
        pass
    finally:
        os.close(process)


def _end_strays(settings: Settings) -> int:
    """Ends QEMUs that nobody looks after, such as those of a Copper that was killed."""
    from copper.host.cgroups import sweep
    from copper.vmm.alive import strays

    found = strays(settings.run_dir, set())
    for alive in found:
        alive.end()
    sweep(settings.run_dir)
    return len(found)


def _count(vms: int) -> str:
    return "1 VM" if vms == 1 else f"{vms} VMs"
