"""A command in a VM: how it begins, what it says and how it ended."""

from __future__ import annotations

import dataclasses
import errno as errnos
from typing import Any

from copper.client.streams import CHUNK, Stream

STDIN, STDOUT, STDERR = b"\x00", 1, 2
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as shells have them


@dataclasses.dataclass(frozen=True)
class Finished:
    """A command that ran to its end. `status` is as a shell has it: 128 + N after signal N."""

    status: int
    stdout: bytes
    stderr: bytes


def beginning(argv: list[str], tty: dict[str, object] | None = None) -> dict[str, Any]:
    """The message that starts a command."""
    return {"argv": argv, "env": {}, "cwd": "/", "tty": tty}


def status_of(exit_message: dict[str, Any]) -> tuple[int, str]:
    """The exit status that a shell would give to this end, and why a command never began."""
    errno = int(exit_message.get("errno") or 0)
    why = str(exit_message.get("message") or "")
    if errno == errnos.ENOENT:
        return NOT_FOUND, why or "no such command"
    if errno:
        return NOT_EXECUTABLE, why or "the command cannot be run"
    if (signal := exit_message.get("signal")) is not None:
        return 128 + int(signal), ""
    return int(exit_message.get("code") or 0), why


def run_command(stream: Stream, argv: list[str], stdin: bytes) -> Finished:
    """Runs a command on an open stream and gathers what it writes."""

    stream.tell(beginning(argv))
    said = {STDOUT: bytearray(), STDERR: bytearray()}
    fed, at_end = 0, False
    while True:
        while not at_end and stream.has_room:
            if fed < len(stdin):
                at_end = not stream.send(STDIN + stdin[fed : fed + CHUNK])
                fed += CHUNK
            else:
                stream.tell({"type": "eof"})
                at_end = True
        message = stream.received()
        if message is None:
            stream.turn()
        elif isinstance(message, bytes):
            said[message[0]] += message[1:]
        elif message.get("type") == "exit":
            status, why = status_of(message)
            return Finished(status, bytes(said[STDOUT]), bytes(said[STDERR]) + why.encode())
