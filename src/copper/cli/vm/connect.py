"""`gc-vm connect`: a TCP connection to a port of a VM, as the standard input and output of this command."""

from __future__ import annotations

import signal
from typing import Any

import click

from copper.cli import here
from copper.cli.arguments import Number, vm_argument


@click.command()
@vm_argument
@click.argument("port", type=Number("PORT", 1, 65535), metavar="PORT")
def connect(vm: str, port: int) -> int:
    """Connect standard input and output to a TCP port of VM.

    It is reached within its virtual cluster's private network, wherever this command runs: VM needs
    no public address. The end of standard input is passed on; VM's end of the connection is the
    end. As ssh has it: `ssh -o ProxyCommand='gc-vm connect %h 22' root@demo-0`.
    """
    from copper.cli.duplex import Duplex, Impatient, Signals

    status = 0

    def on_input(data: bytes) -> bool:
        return stream.send(data) if data else stream.tell({"type": "eof"})

    def on_signal(number: int) -> None:
        nonlocal status
        status = 128 + number
        duplex.stop()

    def on_message(message: bytes | dict[str, Any]) -> tuple[int, bytes] | bool:
        return (1, message) if isinstance(message, bytes) else message.get("type") == "exit"

    with here.client().stream(vm, "connect") as stream:
        stream.tell({"port": port})
        stream.receive()  # it is connected, or says why not
        signals = Signals((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT))
        duplex = Duplex(
            stream, signals, on_input=on_input, on_signal=on_signal, on_message=on_message
        )
        try:
            with signals.taken():
                duplex.serve()
        except Impatient as impatient:
            status = 128 + impatient.number
    return status
