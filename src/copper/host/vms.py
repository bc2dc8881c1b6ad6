"""All VMs of this host: what the host agent does when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from copper.host.console import Console, remove_log
from copper.host.controller_link import ControllerLink
from copper.host.guest_port import GuestPort
from copper.host.standbys import Standbys
from copper.host.vm import (
    Vm,
    VmRecord,
    adopt_machine,
    begin,
    read_records,
    remove_record,
    write_record,
)
from copper.image.disks import remove_unused
from copper.image.freeze import Pause
from copper.image.machine import Image, Machine
from copper.image.store import ImageStore
from copper.image.thaw import check_needs, run, thaw
from copper.model.api import ThawOrder, VmEnded
from copper.model.errors import BadInput, Conflict, CopperError, NotFound
from copper.model.machine import Needs
from copper.model.settings import Settings
from copper.vmm.process import QemuProcess, strays

REFILL_AFTER_S = 0.5  # a QEMU's start would take the processors from clones that wake
log = logging.getLogger(__name__)


class Vms:
    """The VMs, images in memory and standbys of one host."""

    def __init__(
        self, settings: Settings, here: Callable[[], Needs], controller: ControllerLink
    ) -> None:
        self.settings = settings
        self.here = here
        self.store = ImageStore(settings)
        self.standbys = Standbys(settings)
        self._controller = controller
        self._vms: dict[str, Vm] = {}
        self._starting: dict[str, asyncio.Task[Vm]] = {}
        self._templates: dict[str, Image] = {}
        self._frozen: dict[str, tuple[Image, str]] = {}
        self._refilling: asyncio.Task[None] | None = None
        self._greeting: set[asyncio.Task[None]] = set()
        self._loading = asyncio.Lock()
        # more guests that wake together only wait for each other
        self._waking = asyncio.Semaphore(2 * (os.cpu_count() or 1))

    def all(self) -> list[Vm]:
        return list(self._vms.values())

    def get(self, name: str) -> Vm:
        """Raises NotFound."""
        vm = self._vms.get(name)
        if vm is None:
            raise NotFound(f"there is no VM {name!r} on this host")
        return vm

    async def put(self, name: str, order: ThawOrder) -> Vm:
        """Thaws an image as a VM of this name, once: the same order again gets the same VM.

        Raises Conflict when the name is another's; any error leaves nothing behind.
        """
        if order.identity.name != name:
            raise BadInput(f"the order for {name} is for {order.identity.name}")
        found = self._vms.get(name)
        if found is not None:
            if found.identity != order.identity:
                raise Conflict(f"VM {name} runs already, as another")
            return found
        task = self._starting.get(name)
        if task is None:
            task = asyncio.create_task(self._thaw(order))
            self._starting[name] = task
            task.add_done_callback(lambda _: self._starting.pop(name, None))
        return await asyncio.shield(task)

    async def _image(self, order: ThawOrder) -> tuple[Image, str]:
        if order.frozen is not None:
            if order.frozen not in self._frozen:
                raise NotFound(f"there is no image {order.frozen!r} in this host's memory")
            return self._frozen[order.frozen]
        if order.template is None:
            raise BadInput("an order to thaw names a template or a frozen image")
        return await self.template(order.template), order.template

    async def template(self, name: str) -> Image:
        """A stored image in memory: loaded and checked once. Raises NotFound, Damaged, Foreign."""
        async with self._loading:
            manifest = await asyncio.to_thread(self.store.manifest, name)
            check_needs(name, manifest.needs, self.here())
            loaded = self._templates.get(name)
            if loaded is None or loaded.id != manifest.id:
                if loaded is not None:
                    loaded.close()
                self._templates[name] = await asyncio.to_thread(self.store.load, name)
            return self._templates[name]

    async def _thaw(self, order: ThawOrder) -> Vm:
        started = time.perf_counter()
        image, template = await self._image(order)
        name = order.identity.name
        async with self._waking:
            process = await self.standbys.take(image.shape, image.needs)
            machine: Machine | None = None
            vm: Vm | None = None
            try:
                machine = await thaw(image, process, self.settings)
                # connected before the processors run: a guest's port reads as closed otherwise
                vm = self._connect(order, template, machine)
                write_record(self.settings.vms_dir, vm.record())
                await run(machine)
                await begin(vm, order.event, order.call, deadline_s=self.settings.clone_deadline_s)
            except BaseException:
                await self._undo(name, process, machine, vm)
                raise
        vm.ready_ms = (time.perf_counter() - started) * 1000
        write_record(self.settings.vms_dir, vm.record())
        self._keep(vm)
        self.refill()
        return vm

    async def _undo(
        self, name: str, process: QemuProcess, machine: Machine | None, vm: Vm | None
    ) -> None:
        if vm is not None:
            await vm.close()
        elif machine is not None:
            await machine.end()
        else:
            await process.end()
        if machine is not None:
            self._remove_disks(machine)
        remove_record(self.settings.vms_dir, name)
        remove_log(self._log(name))

    def _connect(self, order: ThawOrder, template: str, machine: Machine) -> Vm:
        name = order.identity.name
        self.settings.vms_dir.mkdir(parents=True, exist_ok=True)
        remove_log(self._log(name))
        return self._make(order, template, machine)

    def _make(self, order: ThawOrder, template: str, machine: Machine) -> Vm:
        name = order.identity.name

        async def on_call(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
            return await self._controller.call(name, call, verb, args)

        def on_hello(_: object) -> None:
            # an agent that was started again has no session: it gets one, with the same identity
            if vm.state == "running":
                self._greeting.add(task := asyncio.create_task(self._greet(vm)))
                task.add_done_callback(self._greeting.discard)

        port = GuestPort(machine.process.connect_port(), on_call=on_call, on_hello=on_hello)
        console = Console(machine.process.connect_console(), self._log(name))
        vm = Vm(order.identity, template, machine, port, console)
        return vm

    async def _greet(self, vm: Vm) -> None:
        try:
            await begin(vm, "adopt", None, deadline_s=self.settings.clone_deadline_s)
        except CopperError as error:
            log.warning("VM %s runs, but its agent does not answer: %s", vm.name, error)

    def _keep(self, vm: Vm) -> None:
        self._vms[vm.name] = vm
        vm.watcher = asyncio.create_task(self._watch(vm))

    def _log(self, name: str) -> Path:
        return self.settings.vms_dir / f"{name}.log"

    async def _watch(self, vm: Vm) -> None:
        """A VM that ends on its own is cleaned up, and the controller is told why."""
        process = vm.machine.process
        await process.ended.wait()
        vm.reason = process.monitor.last_words() or process.stderr() or "its QEMU was killed"
        log.warning("VM %s ended: %s", vm.name, vm.reason)
        if self._vms.get(vm.name) is vm:
            del self._vms[vm.name]
        await vm.close()
        self._forget(vm)
        await self._controller.ended(VmEnded(vm=vm.name, reason=vm.reason))

    def _forget(self, vm: Vm) -> None:
        remove_record(self.settings.vms_dir, vm.name)
        remove_log(self._log(vm.name))
        self._remove_disks(vm.machine)

    def _remove_disks(self, machine: Machine) -> None:
        remove_unused(self.settings.disks_dir, machine.disks, self._disks_in_use())

    def _disks_in_use(self) -> set[Path]:
        used = {disk for vm in self._vms.values() for disk in vm.machine.disks}
        used |= {disk for image, _ in self._frozen.values() for disk in image.disks}
        return used | {vm.machine.spare for vm in self._vms.values() if vm.machine.spare}

    async def delete(self, name: str) -> None:
        """Ends a VM; its memory and its disk are free on return. None of this name: nothing to do."""
        task = self._starting.get(name)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        vm = self._vms.pop(name, None)
        if vm is not None:
            await vm.close()
            self._forget(vm)
        if not self._vms and not self._starting:
            await self._drop_standbys()

    async def _drop_standbys(self) -> None:
        for image in self._templates.values():
            await self.standbys.drop_shape(image.shape, image.needs)

    async def freeze(self, name: str) -> tuple[str, Pause, float]:
        """Freezes a VM into an image that this host holds until `release`: its id, the pause, ms in all."""
        vm = self.get(name)
        started = time.perf_counter()
        image, pause = await vm.freeze(self.settings)
        self._frozen[image.id] = (image, vm.template)
        write_record(self.settings.vms_dir, vm.record())
        return image.id, pause, (time.perf_counter() - started) * 1000

    def release(self, image_id: str) -> None:
        """Lets go of a frozen image: it goes with the last VM that stands on it."""
        held = self._frozen.pop(image_id, None)
        if held is None:
            return
        held[0].close()
        remove_unused(self.settings.disks_dir, held[0].disks, self._disks_in_use())

    def prepare(self, name: str, count: int) -> None:
        """Has standbys ready for clones of this VM."""
        process = self.get(name).machine.process
        self.standbys.prepare(process.shape, process.needs, count)

    async def warm(self, name: str) -> None:
        """Has a stored image in memory and standbys for it. Raises NotFound, Damaged, Foreign."""
        image = await self.template(name)
        self.standbys.prepare(image.shape, image.needs, self.settings.standbys)

    def refill(self) -> None:
        """Tops up the standbys of each shape in use, when the machines that were just made have settled."""
        if self._refilling is None or self._refilling.done():
            self._refilling = asyncio.create_task(self._refill())

    async def _refill(self) -> None:
        await asyncio.sleep(REFILL_AFTER_S)
        while self._starting:
            await asyncio.wait(self._starting.values())
        for vm in self._vms.values():
            process = vm.machine.process
            self.standbys.prepare(process.shape, process.needs, self.settings.standbys)

    async def delete_image(self, name: str) -> None:
        """Deletes a stored image. Raises Conflict while a VM stands on it."""
        users = sorted(vm.name for vm in self._vms.values() if vm.template == name)
        if users:
            raise Conflict(
                f"image {name} is in use by {', '.join(users[:5])}", advice="end them first"
            )
        async with self._loading:
            await asyncio.to_thread(self.store.delete, name)
            loaded = self._templates.pop(name, None)
            if loaded is not None:
                await self.standbys.drop_shape(loaded.shape, loaded.needs)
                loaded.close()

    async def adopt(self) -> None:
        """Finds the VMs of an earlier host agent, and clears away what it left half done."""
        records = read_records(self.settings.vms_dir)
        found = await asyncio.gather(*(self._adopt(record) for record in records))
        await asyncio.gather(*(self._greet(vm) for vm in found if vm is not None))
        known = {record.unit for record, vm in zip(records, found, strict=True) if vm is not None}
        await self._clear_units(known)
        self._clear_disks()

    async def _adopt(self, record: VmRecord) -> Vm | None:
        name = record.identity.name
        try:
            machine = await adopt_machine(record, self.settings)
        except NotFound as error:
            log.warning("VM %s is gone: %s", name, error)
            remove_record(self.settings.vms_dir, name)
            remove_log(self._log(name))
            await self._controller.ended(VmEnded(vm=name, reason="it ended with its host"))
            return None
        vm = self._make(ThawOrder(identity=record.identity), record.template, machine)
        vm.ready_ms = record.ready_ms
        vm.state = "running"
        self._keep(vm)
        return vm

    async def _clear_units(self, known: set[str]) -> None:
        """Ends QEMUs that nobody knows: standbys, and clones that were never finished."""
        folder = self.settings.run_dir / "q"
        for alive in strays(self.settings.run_dir, known):
            log.info("ending QEMU %d, which no VM needs", alive.pid)
            alive.end()
        for entry in folder.glob("*"):
            if entry.name not in known:
                await asyncio.to_thread(shutil.rmtree, entry, True)

    def _clear_disks(self) -> None:
        used = self._disks_in_use()
        for path in self.settings.disks_dir.glob("*.qcow2"):
            if path not in used:
                path.unlink()

    async def leave(self) -> None:
        """The host agent ends; its VMs run on."""
        for task in self._starting.values():
            task.cancel()
        await asyncio.gather(*self._starting.values(), return_exceptions=True)
        if self._refilling is not None:
            self._refilling.cancel()
            await asyncio.gather(self._refilling, return_exceptions=True)
        await self.standbys.close()
        for vm in self._vms.values():
            write_record(self.settings.vms_dir, vm.record())
            await vm.leave()
        for image, _ in self._frozen.values():
            image.close()
        for image in self._templates.values():
            image.close()
        self._vms.clear()
        with contextlib.suppress(OSError):
            (self.settings.run_dir / "q").rmdir()
