"""`gc-vm console`: a terminal on a VM's serial line."""

from __future__ import annotations

import os
import signal
from typing import Any

import click

from copper.cli import here
from copper.cli.arguments import vm_argument
from copper.cli.output import note
from copper.cli.terminal import raw_terminal

LEAVE = b"\x1d"  # Ctrl-]


@click.command()
@vm_argument
def console(vm: str) -> None:
    """Speak to VM's serial line; Ctrl-] leaves, and VM runs on.

    What the line showed lately is shown first. Without a terminal, standard input is typed as it
    is, and its end leaves the line open: it is shown until VM ends or a signal comes.
    """
    from copper.cli.duplex import Duplex, Impatient, Signals
    from copper.client.streams import Lost

    def on_input(data: bytes) -> bool:
        typed, key, _ = data.partition(LEAVE)
        going = stream.send(typed) if typed else True
        if key:
            duplex.stop()
        return going

    def on_signal(_number: int) -> None:
        duplex.stop()

    def on_message(message: bytes | dict[str, Any]) -> tuple[int, bytes] | bool:
        return (1, message) if isinstance(message, bytes) else False

    signals = Signals((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT))
    with here.client().stream(vm, "console") as stream:
        duplex = Duplex(
            stream, signals, on_input=on_input, on_signal=on_signal, on_message=on_message
        )
        seen = os.isatty(0) and os.isatty(2)
        if seen:
            note(f"[the serial line of {vm}: Ctrl-] leaves]")
        ended = False
        try:
            with signals.taken(), raw_terminal():
                duplex.serve()
        except Impatient:
            pass
        except Lost:
            ended = True  # the line is over when the VM is
        if seen:
            note(f"\n[{vm} has ended]" if ended else "\n[left]")
