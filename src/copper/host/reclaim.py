"""What VMs wrote goes to the host's swap, if it has any, while its memory is short: before any is paused or ended.

Those that stand go first, for they do not miss it; then the others, in the order in which they would be paused. Each
goes once in a while, for what it uses comes back. With compressed swap (zram) a page takes a third of its room.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence

from copper.host.vms import Vms
from copper.model.errors import NotFound
from copper.model.settings import MIB

AGAIN_S = 30.0  # until the same VM's turn comes again
LEAST_BYTES = MIB  # of its own that a VM must have
SPARE_BYTES = 64 * MIB  # of swap that are left to others
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A VM that may give way; `own_bytes` is its memory."""

    name: str
    own_bytes: int
    stands: bool


def choose(candidates: Sequence[Candidate], last: Mapping[str, float], now: float) -> str | None:
    """Whose turn it is, of those that are given in their order. `last`: when each had its turn, in seconds."""
    waiting = [
        vm
        for vm in candidates
        if vm.own_bytes >= LEAST_BYTES and now - last.get(vm.name, -AGAIN_S) >= AGAIN_S
    ]
    return min(waiting, key=lambda vm: not vm.stands).name if waiting else None


class Reclaim:
    """One VM after another, in the background: compressing takes longer than a guard may look away."""

    def __init__(self, vms: Vms) -> None:
        self._vms = vms
        self._last: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def soon(self, candidates: Sequence[Candidate]) -> bool:
        """Begins with one of them, unless one is under way or swap is full; whether it did."""
        if self._task is not None and not self._task.done():
            return False
        if self._vms.hypervisor.room().swap_free_bytes <= SPARE_BYTES:
            return False
        now = time.monotonic()
        name = choose(candidates, self._last, now)
        if name is None:
            return False
        self._last = {vm: at for vm, at in self._last.items() if now - at < AGAIN_S} | {name: now}
        self._task = asyncio.create_task(self._page_out(name))
        return True

    async def _page_out(self, name: str) -> None:
        try:
            machine = self._vms.get(name).machine
            log.warning("VM %s: page-out: its host's memory becomes short", name)
            await asyncio.to_thread(machine.page_out)
        except NotFound:
            return  # it ended meanwhile
        except OSError as error:
            log.error("VM %s cannot be paged out: %s", name, error.strerror)

    async def close(self) -> None:
        """Returns when the one that is under way is done."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
