"""`gc-vm exec`: a command in a VM as if it ran here: its input, output, signals and exit status."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

import click

from copper.cli import here
from copper.cli.arguments import vm_argument
from copper.cli.output import warn
from copper.cli.terminal import raw_terminal, terminal_size
from copper.model.errors import BadInput

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
LOST = 255  # the command began, and how it ended is not known


@click.command(name="exec", context_settings={"allow_interspersed_args": False})
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal, as a login has.")
@vm_argument
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND …")
def exec_(tty: bool, vm: str, command: tuple[str, ...]) -> int:
    """Run COMMAND in VM. No network is needed.

    Standard input, output and error are the command's. SIGINT, SIGTERM, SIGHUP and SIGQUIT are
    passed on to it; the third of one kind ends the wait for it. In a loop that reads its own
    input, give it < /dev/null.

    \b
    Exit status:
      the command's own; 128 + N when signal N ended it
      127  there is no such command in the VM; 126  it cannot be run
      1-7  Copper could not start it: one line `gc-vm: …` says why
      255  it began, and the connection to it was lost
    """
    argv = list(command[1:] if command[0] == "--" else command)
    if not argv or not argv[0]:
        raise BadInput("no command", advice="gc-vm exec VM -- COMMAND …")
    if command[0] != "--" and argv[0].startswith("-"):
        raise BadInput(f"{argv[0]!r} is no command", advice="options stand before the VM")
    return _run(vm, argv, tty)


def _run(vm: str, argv: list[str], tty: bool) -> int:
    from copper.cli.duplex import Duplex, Impatient, Signals
    from copper.client.commands import STDERR, STDIN, STDOUT, beginning, status_of
    from copper.client.streams import Lost

    status = 0
    why = ""

    def on_input(data: bytes) -> bool:
        return stream.send(STDIN + data) if data else stream.tell({"type": "eof"})

    def on_signal(number: int) -> None:
        if number == signal.SIGWINCH:
            rows, cols = terminal_size()
            stream.tell({"type": "resize", "rows": rows, "cols": cols})
        else:
            stream.tell({"type": "signal", "signal": number})

    def on_message(message: bytes | dict[str, Any]) -> tuple[int, bytes] | bool:
        nonlocal status, why
        if isinstance(message, bytes):
            return {STDOUT: 1, STDERR: 2}[message[0]], message[1:]
        if message.get("type") != "exit":
            return False
        status, why = status_of(message)
        return True

    with here.client().stream(vm, "exec") as stream:
        stream.tell(beginning(argv, _terminal() if tty else None))
        # until it has begun there is nothing to pass a signal on to: Ctrl-C just ends this
        stream.receive()
        signals = Signals((*FORWARDED, signal.SIGWINCH) if tty else FORWARDED)
        duplex = Duplex(
            stream, signals, on_input=on_input, on_signal=on_signal, on_message=on_message
        )
        try:
            with signals.taken(), raw_terminal() if tty else contextlib.nullcontext():
                duplex.serve()
        except Impatient as impatient:
            status = 128 + impatient.number
            why = "no longer waiting for it, and it may still run"
        except Lost as lost:
            status, why = LOST, lost.message
    if why:
        warn("gc-vm", f"{argv[0]}: {why}")
    return status


def _terminal() -> dict[str, object]:
    rows, cols = terminal_size()
    return {"rows": rows, "cols": cols, "term": os.environ.get("TERM") or "dumb"}
