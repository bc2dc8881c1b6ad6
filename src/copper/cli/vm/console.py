"""`gc-vm console`: a terminal on a VM's serial line."""

from __future__ import annotations

import sys

import click

from copper.cli import here
from copper.cli.arguments import vm_argument
from copper.cli.output import note, put
from copper.cli.terminal import raw_terminal

LEAVE = b"\x1d"  # Ctrl-]


@click.command()
@vm_argument
def console(vm: str) -> None:
    """Speak to VM's serial line; Ctrl-] leaves, and the VM runs on.

    What the line showed lately is shown first. Without a terminal, standard input is typed as it is; its end leaves.
    """
    from copper.cli.upstream import Upstream
    from copper.client.streams import Lost

    with here.client().stream(vm, "console") as stream:
        left = False

        def on_data(data: bytes) -> bool:
            nonlocal left
            typed, leave, _ = data.partition(LEAVE)
            if typed and not stream.send(typed):
                return False
            if leave or not data:
                left = True
                stream.close()
                return False
            return True

        if sys.stdin.isatty():
            note(f"the serial line of {vm}; Ctrl-] leaves")
        try:
            with raw_terminal(), Upstream(on_data, lambda _: None).going([]):
                while True:
                    message = stream.receive()
                    if isinstance(message, bytes):
                        put(message)
        except Lost:
            if not left:
                note(f"{vm} has ended")
        if sys.stdin.isatty():
            note("")
