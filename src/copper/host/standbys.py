"""Standby processes: QEMU's start is paid before a clone is asked for."""

from __future__ import annotations

import asyncio
import collections
import logging

from copper.model.errors import CopperError
from copper.model.machine import Needs, Shape
from copper.model.settings import Settings
from copper.vmm.process import QemuProcess

AT_ONCE = 4  # processes that start together: more of them only wait for each other
log = logging.getLogger(__name__)

Key = tuple[Shape, Needs]


class Standbys:
    """Waiting QEMU processes by shape. `take` gives one at once, or starts it."""

    def __init__(self, settings: Settings, tap: int) -> None:
        """`tap`: one that leads nowhere, for all of them."""
        self._settings = settings
        self._tap = tap
        self._waiting: dict[Key, collections.deque[QemuProcess]] = collections.defaultdict(
            collections.deque
        )
        self._coming: collections.Counter[Key] = collections.Counter()
        self._arrived = asyncio.Condition()
        self._starting = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    def units(self) -> set[str]:
        """The units of those that wait."""
        return {process.unit for queue in self._waiting.values() for process in queue}

    async def take(self, shape: Shape, needs: Needs) -> QemuProcess:
        """A process that waits for a state of this shape: the caller owns it now. Raises CopperError."""
        key = (shape, needs)
        while True:
            queue = self._waiting[key]
            while queue:
                process = queue.popleft()
                if not process.ended.is_set():
                    return process
                await process.end()
            if not self._coming[key]:
                break
            # one is on its way: let it be ours
            async with self._arrived:
                if not self._waiting[key] and self._coming[key]:
                    await self._arrived.wait()
        async with self._starting:
            return await QemuProcess.start(self._settings, shape, needs, self._tap)

    def prepare(self, shape: Shape, needs: Needs, count: int) -> None:
        """Sees to it that so many wait, or are on their way."""
        key = (shape, needs)
        if self._closed:
            return
        for _ in range(count - len(self._waiting[key]) - self._coming[key]):
            self._coming[key] += 1
            task = asyncio.create_task(self._start(key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _start(self, key: Key) -> None:
        process = None
        try:
            async with self._starting:
                process = await QemuProcess.start(self._settings, *key, self._tap)
        except CopperError as error:
            log.warning("no standby: %s", error)
        finally:
            self._coming[key] -= 1
            if process is not None:
                self._waiting[key].append(process)
            async with self._arrived:
                self._arrived.notify_all()

    async def drop_shape(self, shape: Shape, needs: Needs) -> None:
        """Ends those that nobody will ask for any more."""
        queue = self._waiting.pop((shape, needs), collections.deque())
        for process in queue:
            await process.end()

    async def close(self) -> None:
        """Ends all of them."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for queue in self._waiting.values():
            for process in queue:
                await process.end()
        self._waiting.clear()
