"""Huge pages for VMs that wrote much: the processor finds faster what a VM has wholly and alone (native/huge.c).

A VM is asked when it has more memory of its own than the last time, by a share: so a VM that goes on writing is looked
through a few times in all, and one that stands still never. None is asked while memory is short, nor where the host's
administrator wants no huge pages, nor where the kernel keeps equal pages of VMs once, which takes huge ones apart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Protocol

from copper.model.errors import CopperError
from copper.model.settings import MIB
from copper.vmm.paging import gives_huge_pages

LOOK_S = 0.5
LOOK_EACH_S = 0.01  # of a host with many VMs: 0.03 ms for each
LEAST_BYTES = 8 * MIB  # that a VM's own memory must have grown: more than an idle clone has
SHARE = 16  # or by a part of so many
log = logging.getLogger(__name__)


class Writer(Protocol):
    """A VM that may have written much."""

    @property
    def name(self) -> str: ...

    def touched_bytes(self) -> int:
        """Of memory that it was the first to touch, and has now; a little work, for it is asked again and again."""

    async def collapse(self) -> int:
        """Gives it huge pages where they cost nothing; the bytes. Raises CopperError."""


def _has_grown(now: int, had: int) -> bool:
    return now - had >= max(LEAST_BYTES, had // SHARE)


class HugePages:
    """Looks after the VMs of one host from `start` until `close`."""

    def __init__(
        self,
        vms: Callable[[], Collection[Writer]],
        *,
        is_short: Callable[[], bool],
        wanted: Callable[[], bool] = gives_huge_pages,
    ) -> None:
        self._vms, self._is_short, self._wanted = vms, is_short, wanted
        self._had: dict[str, int] = {}  # bytes of its own when it was asked last, or less, by VM
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Nothing when it has been started."""
        if self._task is None:
            self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(max(LOOK_S, LOOK_EACH_S * len(self._vms())))
            await self.look()

    async def look(self) -> None:
        """Asks who has grown."""
        now = {vm: vm.touched_bytes() for vm in self._vms()}
        self._had = {vm.name: min(has, self._had.get(vm.name, 0)) for vm, has in now.items()}
        grown = [vm for vm, has in now.items() if _has_grown(has, self._had[vm.name])]
        if not grown or not self._wanted() or self._is_short():
            return
        for vm in grown:
            self._had[vm.name] = now[vm]
            await self._ask(vm)

    async def _ask(self, vm: Writer) -> None:
        try:
            gained = await vm.collapse()
        except CopperError as error:  # it ended just then, or goes on with small pages
            log.info("VM %s has no more huge pages: %s", vm.name, error)
            return
        if gained:
            log.debug("VM %s has %d MiB more in huge pages", vm.name, gained // MIB)
