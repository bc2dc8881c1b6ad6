"""The client that commands and users have: the API's methods, its streams and its events."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from copper.client import check
from copper.client.api import Api
from copper.client.caller import READ_S
from copper.model.errors import TimedOut

if TYPE_CHECKING:
    from copper.client.commands import Finished
    from copper.client.events import Events
    from copper.client.streams import Stream
    from copper.model.api import Health
    from copper.model.operations import Operation

LOOK_S = 20.0  # at most so long one request waits for an operation's end
Kind = Literal["exec", "push", "pull", "console", "connect"]


class Client(Api):
    """A Copper: the one that a Target or Settings name, or without either the environment's.

    Every call may raise CopperError. Names are checked before anything is sent. `wait=False` gives
    the Operation instead of its result. What creates something has one effect, also when the
    connection broke and it was asked again.
    """

    records: ClassVar[dict[str, str]] = {**Api.records, "Change": "copper.model.operations"}

    def health(self, *, timeout_s: float = READ_S) -> Health:
        """That it serves, and which it is."""
        answer: Health = self._ask("Health", "GET", "/v1/health", timeout_s=timeout_s)
        return answer

    def events(
        self, cluster: str | None = None, *, after: str | None = None, patience_s: float = 60.0
    ) -> Events:
        """What changes from now on, or since the change with the id `after`: an iterator without end.

        It connects again and goes on where it was by itself; raises when nobody answers for
        `patience_s` seconds, and TooOld when what is asked for was forgotten: nothing is skipped.
        """
        from copper.client.events import Events

        return Events(self, cluster, after, patience_s)

    def wait_operation(self, id: str, *, timeout_s: float | None = None) -> Operation:
        """The operation once it is over, however it ended. Raises TimedOut after `timeout_s`."""
        began = time.monotonic()
        while True:
            left = LOOK_S if timeout_s is None else began + timeout_s - time.monotonic()
            now = super().wait_operation(id, timeout_s=round(max(0.0, min(left, LOOK_S)), 3))
            # a raw client has it as JSON
            if (now["state"] if isinstance(now, dict) else now.state) != "running":
                return now
            if timeout_s is not None and time.monotonic() - began >= timeout_s:
                raise TimedOut(f"operation {id} runs on after {timeout_s:g} s")

    # streams

    def stream(self, vm: str, kind: Kind) -> AbstractContextManager[Stream]:
        from copper.client.streams import open_stream

        return open_stream(self.target, f"/host/v1/vms/{check.a_vm(vm)}/{kind}")

    def run(self, vm: str, argv: list[str], *, stdin: bytes = b"") -> Finished:
        """Runs a command in a VM to its end, with all its output."""
        from copper.client.commands import run_command

        with self.stream(vm, "exec") as stream:
            return run_command(stream, argv, stdin)

    def push(self, vm: str, file: Path, destination: str) -> None:
        """Copies a local file into a VM: to a path, or into a folder."""
        from copper.client.files import check_file, push_file

        check_file(file)
        with self.stream(vm, "push") as stream:
            push_file(stream, file, destination)

    def pull(self, vm: str, source: str, target: Path) -> None:
        """Copies a VM's file to a local one."""
        from copper.client.files import pull_file

        with self.stream(vm, "pull") as stream:
            pull_file(stream, source, target)
