"""One VM on this host, from its thaw to its end, and what is written down of it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from copper.host.console import Console
from copper.host.guest_port import GuestPort
from copper.image.freeze import Pause, freeze, shorten
from copper.image.machine import Image, Machine, layers_of
from copper.model.api import Event, VmState, VmStatus
from copper.model.errors import CopperError, NoRoom, NotFound
from copper.model.machine import Identity, Record
from copper.model.settings import Settings
from copper.vmm.process import QemuProcess

log = logging.getLogger(__name__)

OnCall = Callable[["Vm", int, str, dict[str, Any], int], Awaitable[dict[str, Any]]]


class VmRecord(Record):
    """What a new host agent needs to find a VM again. Written before the VM runs."""

    identity: Identity
    template: str
    unit: str
    disks: list[Path]
    ready_ms: float = 0


@dataclasses.dataclass
class Vm:
    """A VM: its machine, its guest's port, its serial line."""

    identity: Identity
    template: str
    machine: Machine
    port: GuestPort
    console: Console
    state: VmState = "starting"
    ready_ms: float = 0
    last_pause: Pause | None = None
    reason: str = ""
    watcher: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.identity.name

    def status(self) -> VmStatus:
        process = self.machine.process
        return VmStatus(
            name=self.name,
            identity=self.identity,
            shape=process.shape,
            needs=process.needs,
            state=self.state,
            pid=process.pid,
            template=self.template,
            own_bytes=process.own_bytes(),
            shared_bytes=sum(layer.bytes for layer in self.machine.layers),
            layers=len(self.machine.layers),
            disks=len(self.machine.disks),
            ready_ms=self.ready_ms,
            last_pause_ms=self.last_pause.pause_ms if self.last_pause else None,
        )

    def record(self) -> VmRecord:
        return VmRecord(
            identity=self.identity,
            template=self.template,
            unit=self.machine.process.unit,
            disks=list(self.machine.disks),
            ready_ms=self.ready_ms,
        )

    async def freeze(self, settings: Settings) -> tuple[Image, Pause]:
        """An image of this VM, which runs on. Raises NoRoom or CopperError; it runs on all the same."""
        try:
            image, pause = await freeze(self.machine, settings, quiesce=self.port.quiesce)
        finally:
            self.port.resume()
        self.last_pause = pause
        shorten(self.machine)
        return image, pause

    async def close(self) -> None:
        """Ends the VM and all that is its alone."""
        self.state = "ending"
        if self.watcher is not None and self.watcher is not asyncio.current_task():
            self.watcher.cancel()
            await asyncio.gather(self.watcher, return_exceptions=True)
        await self.port.close()
        await self.console.close()
        await self.machine.end()

    async def leave(self) -> None:
        """Lets go of the VM, which runs on."""
        if self.watcher is not None:
            self.watcher.cancel()
            await asyncio.gather(self.watcher, return_exceptions=True)
        await self.port.close()
        await self.console.close()
        await self.machine.leave()


def write_record(folder: Path, record: VmRecord) -> None:
    """Replaces a VM's record, whole or not at all. Raises NoRoom."""
    fresh = folder / f".{record.identity.name}.new"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh.write_text(record.model_dump_json())
        fresh.rename(folder / f"{record.identity.name}.json")
    except OSError as error:
        fresh.unlink(missing_ok=True)
        name = record.identity.name
        raise NoRoom(f"VM {name} cannot be written down: {error.strerror}") from error


def read_records(folder: Path) -> list[VmRecord]:
    """All VMs that were written down. A record that cannot be read is set aside and said."""
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(VmRecord.model_validate_json(path.read_bytes()))
        except (OSError, ValueError) as error:
            log.error("the record %s cannot be read and is set aside: %s", path, error)
            with contextlib.suppress(OSError):
                path.rename(path.with_suffix(".damaged"))
    return records


def remove_record(folder: Path, name: str) -> None:
    (folder / f"{name}.json").unlink(missing_ok=True)


async def begin(vm: Vm, event: Event, call: int | None, *, deadline_s: float) -> None:
    """Opens a session with the guest: returns when its identity is its own. Raises TimedOut, CopperError."""
    identity = vm.identity.model_dump()
    await vm.port.begin(identity, event, call, deadline=deadline_s)
    vm.state = "running"


async def adopt_machine(record: VmRecord, settings: Settings) -> Machine:
    """Finds a running QEMU, its layers and its disks again. Raises NotFound when it has ended."""
    process = await QemuProcess.adopt(settings.run_dir / "q" / record.unit)
    try:
        # the record may be from just before the VM stepped aside: QEMU knows
        disks = tuple(await process.monitor.chain())
        if await process.monitor.status() == "paused":
            await process.monitor.cont()  # an agent died in the middle of a freeze
        return Machine(process, layers_of(process.pid), disks)
    except CopperError as error:
        await process.leave()
        raise NotFound(f"VM {record.identity.name} does not answer: {error}") from error
