"""The first that is done when a host's memory runs out: whole machines are held, at once, until they can be paused.

Guests that all begin to write take what a host keeps for itself in a second or two. The host agent's loop may be
behind just then, and a monitor of one machine among hundreds that want the processor answers late. So a thread of its
own looks, and a signal stops a whole QEMU. `MemoryGuard` then pauses properly who is held, one after another, with the
processors that the others left free. `how_many` is pure.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

HORIZON_S = 0.5  # as long as it takes until those that are held make a difference, and some more
LOOK_S, LOOK_OFTEN_S = 0.2, 0.02
WINDOW_S, LEAST_WINDOW_S = 0.2, 0.06  # over which it is seen how fast memory goes
NEAR = 4  # times what the host keeps: less is looked at often
MIB = 1 << 20
STEP_BYTES = 8 * MIB  # that memory must have fallen before the next is held
log = logging.getLogger(__name__)


def how_many(available: int, keep: int, rate: float, running: int, *, fell: bool) -> int:
    """Of so many that run, how many are to be held now. Bytes, and bytes a second that are being lost.

    Below a quarter of `keep` VMs are ended. So large a share is held that what the others take within HORIZON_S leaves
    half as much again. Below half of it one is held each time that it `fell` further.
    """
    losing = max(0.0, rate) * HORIZON_S
    spare = max(0, available - keep // 8 * 3)
    if spare < losing:
        return min(running, math.ceil(running * (1 - spare / losing)))
    return min(running, 1) if available < keep // 2 and fell else 0


class Brake:
    """Looks at free memory, and holds machines of those that are offered."""

    def __init__(
        self,
        keep: int,
        available: Callable[[], int],
        hold: Callable[[str], bool],
        tell: Callable[[], None],
    ) -> None:
        """Called in its thread: `available`, `hold` (of a VM: false when it is gone), `tell` (that some are held)."""
        self._keep, self._available, self._hold, self._tell = keep, available, hold, tell
        self._order: Sequence[str] = ()
        self._held: dict[str, int] = {}  # bytes that were free, by VM
        self._taken: set[str] = set()
        self._turn = threading.Lock()
        self._seen: deque[tuple[float, int]] = deque()
        self._level = keep  # that was free when one was held last
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="brake", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Nobody is held any more by it. Who is held now stays so: see `take`."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def offer(self, order: Sequence[str]) -> None:
        """Which VMs may be held from now on, who gives way first first; none that stands already."""
        with self._turn:
            self._order = order

    def take(self) -> dict[str, int]:
        """Who was held since the last call, and the bytes that were free. `settled` is to be called of each."""
        with self._turn:
            fresh = {name: free for name, free in self._held.items() if name not in self._taken}
            self._taken |= fresh.keys()
        return fresh

    def settled(self, name: str) -> None:
        """It is paused, or goes on, or has ended: it is not held any more."""
        with self._turn:
            self._order = [vm for vm in self._order if vm != name]
            self._held.pop(name, None)
            self._taken.discard(name)

    @property
    def rate(self) -> float | None:
        """Bytes a second that were lost lately; None while that is not known."""
        seen = list(self._seen)
        if not seen or seen[-1][0] - seen[0][0] < LEAST_WINDOW_S:
            return None
        return (seen[0][1] - seen[-1][1]) / (seen[-1][0] - seen[0][0])

    def look(self, now: float, available: int) -> None:
        """Does what `how_many` says of so many bytes that are free at this time, in seconds."""
        self._seen.append((now, available))
        while now - self._seen[0][0] > WINDOW_S and len(self._seen) > 2:
            self._seen.popleft()
        if available >= self._keep:
            self._level = self._keep
        if (rate := self.rate) is None:
            return
        with self._turn:
            running = [vm for vm in self._order if vm not in self._held]
            fell = available < self._level - STEP_BYTES
            count = how_many(available, self._keep, rate, len(running), fell=fell)
            if not count:
                return
            self._level = available
            self._seen.clear()  # what was lost before says nothing of those that are left
            for vm in running[:count]:
                if self._hold(vm):
                    self._held[vm] = available
        log.warning(
            "memory runs out: %d MiB are free of %d that this host keeps, %d go each second; %d of %d VMs are held",
            available // MIB,
            self._keep // MIB,
            rate / MIB,
            count,
            len(running),
        )
        self._tell()

    def _run(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))  # of this thread
        pause_s = LOOK_OFTEN_S
        while not self._over.wait(pause_s):
            try:
                available = self._available()
                self.look(time.monotonic(), available)
            except Exception:
                # a host without a brake is worse off than one whose log says this again and again
                log.exception("the host's memory cannot be looked at")
                pause_s = LOOK_S
                continue
            pause_s = LOOK_OFTEN_S if available < NEAR * self._keep else LOOK_S
