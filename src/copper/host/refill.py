"""Standbys are topped up when the machines that were just made have settled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from copper.host.hypervisor import Hypervisor
from copper.host.vm import Vm

REFILL_AFTER_S = 0.5  # a standby's start would take the processors from clones that wake


class Refill:
    """Of each shape in use so many as `standbys` says."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        standbys: int,
        starting: Mapping[str, asyncio.Task[Any]],
        vms: Callable[[], Iterable[Vm]],
    ) -> None:
        self._hypervisor, self._standbys = hypervisor, standbys
        self._starting, self._vms = starting, vms
        self._task: asyncio.Task[None] | None = None

    def soon(self) -> None:
        """When nothing has been started for a moment."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._refill())

    async def _refill(self) -> None:
        await asyncio.sleep(REFILL_AFTER_S)
        while self._starting:
            await asyncio.wait(self._starting.values())
        for shape, needs in {(vm.machine.shape, vm.machine.needs) for vm in self._vms()}:
            self._hypervisor.prepare(shape, needs, self._standbys)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
