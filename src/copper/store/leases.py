"""The time of a store's leases: one timer each, which asks the store to end it, never early."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping

from copper.store.draft import over

AGAIN_S = 1.0  # until the end of a lease that could not be written down is tried again


@dataclasses.dataclass(slots=True)
class _Clock:
    ttl_s: float
    deadline: float
    timer: asyncio.TimerHandle
    over: bool = False


class Leases:
    """The leases that there are. `end` is called with each whose time is over, and must not wait."""

    def __init__(self, end: Callable[[int], None]) -> None:
        self._end = end
        self._clocks: dict[int, _Clock] = {}

    def follow(self, leases: Mapping[int, float | None]) -> None:
        """What is written down: leases that were granted, with their seconds, and that were ended, with None."""
        for lease, ttl_s in leases.items():
            if ttl_s is None:
                self._forget(lease)
            else:
                self._start(lease, ttl_s)

    def _start(self, lease: int, ttl_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ttl_s
        timer = loop.call_at(deadline, self._rings, lease)
        self._clocks[lease] = _Clock(ttl_s, deadline, timer)

    def _forget(self, lease: int) -> None:
        if clock := self._clocks.pop(lease, None):
            clock.timer.cancel()

    def check(self, lease: int) -> None:
        """Raises NotFound when it is over, also if that is not yet written down."""
        if lease not in self._clocks or self._clocks[lease].over:
            raise over(lease)

    def keep(self, lease: int) -> None:
        """Raises NotFound when it is over."""
        self.check(lease)
        clock = self._clocks[lease]
        # the timer stays where it is, and finds a later deadline when it rings
        clock.deadline = asyncio.get_running_loop().time() + clock.ttl_s

    def try_again(self, lease: int) -> None:
        """Its end could not be written down."""
        if lease in self._clocks:
            timer = asyncio.get_running_loop().call_later(AGAIN_S, self._rings, lease)
            self._clocks[lease].timer = timer

    def close(self) -> None:
        for lease in list(self._clocks):
            self._forget(lease)

    def _rings(self, lease: int) -> None:
        loop = asyncio.get_running_loop()
        clock = self._clocks[lease]
        if loop.time() < clock.deadline:
            clock.timer = loop.call_at(clock.deadline, self._rings, lease)
            return
        clock.over = True
        self._end(lease)
