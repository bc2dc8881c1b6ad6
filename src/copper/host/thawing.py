"""A QEMU becomes the VM of an image: as a copy of a seed, or by loading the state into one that waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from copper.host.cgroups import Groups
from copper.host.standbys import Standbys
from copper.image.machine import Image, Machine
from copper.image.thaw import thaw, thaw_copy
from copper.model.errors import CopperError
from copper.model.settings import Settings
from copper.vmm.process import QemuProcess
from copper.wire import trace
from copper.wire.undo import undo

log = logging.getLogger(__name__)


class Thawing:
    """Those of one host that are under way."""

    def __init__(
        self,
        settings: Settings,
        standbys: Standbys,
        groups: Groups,
        remove_disks: Callable[[tuple[Path, ...]], None],
    ) -> None:
        self._settings, self._standbys, self._groups = settings, standbys, groups
        self._remove_disks = remove_disks
        self.units: dict[str, str] = {}  # the VM that each becomes
        # whether the last copy succeeded: until then, and after one that failed, images have a state besides a seed
        self.copies_work = False

    async def make(self, image: Image, name: str, tap: int) -> Machine:
        """The VM, in its group and not yet running. Raises CopperError; nothing is left then but its group."""
        process = await self._copy(image, tap)
        if process is None:
            with trace.span("standby"):
                process = await self._standbys.take(image.shape, image.needs)
        grouping = self._put_into_group(process, name)
        machine: Machine | None = None
        try:
            if process.is_copy:  # what it writes from now on is its group's
                with trace.span("group"):
                    await undo(_ended(grouping))
                with trace.span("disk"):
                    machine = await thaw_copy(image, process, self._settings)
            else:
                with trace.span("state", unit=process.unit):
                    machine = await thaw(image, process, self._settings, tap)
                await undo(_ended(grouping))
            return machine
        except BaseException:  # also whoever is cancelled when all is done
            await undo(self._unmake(process, machine, grouping))
            raise

    def forget(self, name: str) -> None:
        """This VM is made, or is not to be."""
        for unit in [unit for unit, of in self.units.items() if of == name]:
            del self.units[unit]

    async def _unmake(
        self, process: QemuProcess, machine: Machine | None, grouping: asyncio.Task[None]
    ) -> None:
        if machine is None:
            await process.end()
        else:
            await machine.end()
            self._remove_disks(machine.disks)
        await _ended(grouping)  # or it would make the group anew that is removed next

    async def _copy(self, image: Image, tap: int) -> QemuProcess | None:
        """None: this image has no seed, or one that makes no copies; its state can be loaded. Raises CopperError."""
        if image.seed is None:
            return None
        try:
            with trace.span("copy"):
                process = await QemuProcess.fork(self._settings, image.seed, tap)
        except CopperError as error:
            self.copies_work = False
            if not image.state:
                raise
            log.warning("QEMU is not copied, its state is loaded instead: %s", error)
            image.let_go_of_seed()
            return None
        self.copies_work = True
        return process

    def _put_into_group(self, process: QemuProcess, name: str) -> asyncio.Task[None]:
        """A kernel that was not asked for long takes 20 ms for it: as long as a thaw."""
        self.units[process.unit] = name
        put = self._groups.put
        return asyncio.create_task(
            asyncio.to_thread(put, name, process.pid, process.shape, is_copy=process.is_copy)
        )


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait({task})
