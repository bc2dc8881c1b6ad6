"""Faults on demand: what goes wrong with a fake host, and when."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Literal

from copper.model.errors import CopperError

Verb = Literal[
    "template", "thaw", "run", "begin", "freeze", "pause", "end", "adopt", "report", "release",
    "prepare", "images", "vms", "unpause", "limit", "suspend", "resume", "discard", "suspended",
    "inventory", "mend", "warm", "delete_image", "expose",
]  # fmt: skip
Kind = Literal["fail", "hang", "die", "lose", "double", "late"]
DURING: tuple[Kind, ...] = ("fail", "hang", "die")
IN_MESSAGES: tuple[Kind, ...] = ("lose", "double", "late")


@dataclasses.dataclass(slots=True)
class Fault:
    """One fault that waits for its turn, or holds somebody up."""

    verb: Verb
    kind: Kind
    left: int
    error: CopperError
    met: asyncio.Event
    go_on: asyncio.Event


class Faults:
    """Planned faults of one host, each met once.

    `fail`: nothing is done, and an error says so. `hang`: nothing is done until the fault's `go_on` is set. `die`: the
    machine ends in the middle. Of messages between controller and host: `lose`: all is done, and the answer is
    lost; `double`: the message comes twice; `late`: it comes when `go_on` is set.
    """

    def __init__(self) -> None:
        self._planned: list[Fault] = []
        self._holding: list[Fault] = []

    def plan(
        self, verb: Verb, kind: Kind, *, nth: int = 1, error: CopperError | None = None
    ) -> Fault:
        """The `nth` time from now on that `verb` is done, this goes wrong."""
        error = error or CopperError(f"{verb} failed, as asked")
        fault = Fault(verb, kind, nth, error, asyncio.Event(), asyncio.Event())
        self._planned.append(fault)
        return fault

    def forget(self) -> None:
        """Nothing more goes wrong, and what hangs goes on."""
        self._planned.clear()
        for fault in self._holding:
            fault.go_on.set()
        self._holding.clear()

    def __bool__(self) -> bool:
        return bool(self._planned)

    def take(self, verb: Verb, kinds: tuple[Kind, ...]) -> Fault | None:
        """The fault whose turn it is, met now."""
        found: Fault | None = None
        for fault in self._planned:
            if fault.verb == verb and fault.kind in kinds:
                fault.left -= 1
                if fault.left <= 0 and found is None:
                    found = fault
        if found is not None:
            self._planned.remove(found)
            found.met.set()
        return found

    async def hold(self, fault: Fault) -> None:
        """Waits until the fault's `go_on` is set."""
        self._holding.append(fault)
        await fault.go_on.wait()
