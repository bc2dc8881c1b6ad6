"""A host whose machines are QEMU processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
from collections.abc import Coroutine, Sequence
from pathlib import Path

from copper.dns.options import OFF
from copper.host.cgroups import find_groups, instance_of
from copper.host.console import remove_log
from copper.host.huge_pages import HugePages
from copper.host.hypervisor import Image, Listener, Room
from copper.host.inventory import Held, Place
from copper.host.qemu_machine import QemuMachine
from copper.host.records import VmRecord
from copper.host.standbys import Standbys
from copper.host.thawing import Thawing
from copper.image.disks import remove_unused
from copper.image.freeze import free_for_layers
from copper.image.machine import Image as QemuImage
from copper.image.machine import Machine as QemuVm
from copper.image.machine import layers_of
from copper.image.store import ImageStore
from copper.image.suspended import SuspendedStore, SuspendedVm
from copper.image.thaw import check_needs
from copper.model.api import ImageInfo
from copper.model.audit import Found
from copper.model.errors import CopperError, NoRoom, NotFound, Refused
from copper.model.machine import Identity, Needs, Shape
from copper.model.settings import Settings
from copper.net.networks import Networks
from copper.net.private import open_lone_tap
from copper.vmm.alive import strays
from copper.vmm.capabilities import Verdict, accelerator_verdict, needs_of, probe_qemu
from copper.vmm.process import STARTING, QemuProcess
from copper.wire import trace
from copper.wire.undo import undo

log = logging.getLogger(__name__)


class QemuHypervisor:
    """The QEMUs of one run directory."""

    def __init__(self, settings: Settings) -> None:
        """Asks QEMU what it can do. Raises CopperError when it is missing or too old."""
        self.settings = settings
        self.qemu = probe_qemu(settings)
        for folder in (settings.state_dir, settings.disks_dir, settings.vms_dir, settings.run_dir):
            folder.mkdir(parents=True, exist_ok=True)
        settings.run_dir.chmod(0o700)
        self.store = ImageStore(settings)
        self.groups = find_groups(settings.run_dir)
        names = settings.dns_socket if settings.dns != OFF else None
        self.networks = Networks(instance_of(settings.run_dir)[:6], names=names)
        self._lone_tap = _open_lone_tap()
        self._standbys = Standbys(settings, self._lone_tap)
        self._thawing = Thawing(settings, self._standbys, self.groups, self._remove_disks)
        self._templates: dict[str, QemuImage] = {}
        self._frozen: dict[str, QemuImage] = {}
        self._machines: set[QemuMachine] = set()
        self._huge_pages = HugePages(
            lambda: self._machines, is_short=lambda: free_for_layers(settings) <= 0
        )
        self._storing: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = (
            set()
        )  # what seeds have begun; they end with their images
        self._loading = asyncio.Lock()
        self._suspended = SuspendedStore(settings)
        self._place = Place(settings, self.groups, self._suspended, self.networks)
        self._stored = {found.cluster: found for found in self._suspended.readable()}

    @property
    def verdict(self) -> Verdict:
        return accelerator_verdict(self.settings, self.qemu)

    @property
    def version(self) -> str:
        return self.qemu.version

    @property
    def machine(self) -> str:
        return self.qemu.machine

    def room(self) -> Room:
        bytes_of = _meminfo()
        disk = shutil.disk_usage(self.settings.state_dir)
        return Room(
            cpus=os.cpu_count() or 1,
            memory_bytes=bytes_of["MemTotal"],
            free_bytes=max(0, free_for_layers(self.settings)),
            disk_bytes=disk.total,
            disk_free_bytes=disk.free,
            available_bytes=bytes_of["MemAvailable"],
            swap_free_bytes=bytes_of.get("SwapFree", 0),  # a kernel without swap does not say
        )

    def available_bytes(self) -> int | None:
        return _meminfo()["MemAvailable"]

    def images(self) -> list[ImageInfo]:
        return [self.store.info(name) for name in self.store.names()]

    async def template(self, name: str) -> QemuImage:
        async with self._loading:
            manifest = await asyncio.to_thread(self.store.manifest, name)
            check_needs(name, manifest.needs, needs_of(self.qemu, self.verdict.accelerator))
            loaded = self._templates.get(name)
            if loaded is None or loaded.id != manifest.id:
                if loaded is not None:
                    loaded.close()
                self._templates[name] = await asyncio.to_thread(self.store.load, name)
            return self._templates[name]

    async def delete_image(self, name: str) -> None:
        async with self._loading:
            self._suspended.check_unused(name)
            await asyncio.to_thread(self.store.delete, name)
            loaded = self._templates.pop(name, None)
            if loaded is not None:
                await self._standbys.drop_shape(loaded.shape, loaded.needs)
                loaded.close()

    def discard(self, image: Image) -> None:
        held = self._frozen.pop(image.id, None)
        if held is not None:
            held.close()
            self._remove_disks(held.disks)

    def _remove_disks(self, disks: tuple[Path, ...]) -> None:
        remove_unused(self.settings.disks_dir, disks, self._disks_in_use())

    def _disks_in_use(self) -> set[Path]:
        used = {disk for machine in self._machines for disk in machine.disks}
        used |= {disk for image in self._frozen.values() for disk in image.disks}
        used |= {disk for found in self._stored.values() for disk in found.disks()}
        return used | {machine.spare for machine in self._machines if machine.spare}

    async def thaw(self, image: Image, identity: Identity, listener: Listener) -> QemuMachine:
        assert isinstance(image, QemuImage)
        machine: QemuVm | None = None
        with trace.span("tap"):
            tap = await self.networks.tap(identity.cluster, identity.vmid)
        try:
            machine = await self._thawing.make(image, identity.name, tap)
            # connected before the processors run: a guest's port reads as closed otherwise
            self.settings.vms_dir.mkdir(parents=True, exist_ok=True)
            remove_log(self._log(identity.name))
            return self._connect(identity, machine, listener)
        except BaseException:
            lent, tap = tap, -1
            await undo(self._take_back(identity, machine, lent))
            raise
        finally:
            if tap >= 0:
                os.close(tap)  # QEMU has it: it goes with QEMU
            self._thawing.forget(identity.name)

    async def _take_back(self, identity: Identity, machine: QemuVm | None, tap: int) -> None:
        """All that a thaw that failed has made; `tap` is its descriptor."""
        if machine is not None:
            await machine.end()
            self._remove_disks(machine.disks)
        await self.groups.remove(identity.name)
        remove_log(self._log(identity.name))
        os.close(tap)
        await self.networks.leave(identity.cluster, identity.vmid)

    def _connect(self, identity: Identity, machine: QemuVm, listener: Listener) -> QemuMachine:
        made = QemuMachine(
            identity,
            machine,
            listener,
            self.settings,
            self.groups,
            self.networks,
            hold_image=self._hold,
            let_go=self._let_go,
            copies_work=lambda: self._thawing.copies_work,
        )
        self._machines.add(made)
        if self.settings.huge_pages and not self.settings.merge:
            self._huge_pages.start()
        return made

    def _log(self, name: str) -> Path:
        return self.settings.vms_dir / f"{name}.log"

    def suspended(self) -> dict[str, dict[str, int]]:
        return {cluster: found.sizes() for cluster, found in self._stored.items()}

    async def store_cluster(
        self, cluster: str, frozen: Sequence[tuple[SuspendedVm, Image]]
    ) -> None:
        images = [(vm, image) for vm, image in frozen if isinstance(image, QemuImage)]
        self._storing.add(cluster)
        try:
            stored = await asyncio.to_thread(self._suspended.store, cluster, images)
        finally:
            self._storing.discard(cluster)
        self._stored[cluster] = stored

    async def load_cluster(self, cluster: str) -> list[tuple[SuspendedVm, Image]]:
        wanted = await asyncio.to_thread(self._suspended.check, cluster)
        room, needed = free_for_layers(self.settings), wanted.layer_bytes()
        if needed > room:
            raise NoRoom(
                f"no memory left to resume {cluster}: it needs {needed >> 20} MiB,"
                f" there is room for {max(0, room) >> 20}"
            )
        templates = {name: await self.template(name) for name in wanted.templates}
        loaded = await asyncio.to_thread(self._suspended.load, cluster, templates)
        self._frozen |= {image.id: image for _, image in loaded}
        return list(loaded)

    async def forget_cluster(self, cluster: str) -> None:
        disks = await asyncio.to_thread(self._suspended.discard, cluster)
        self._stored.pop(cluster, None)
        self._remove_disks(tuple(disks))

    async def adopt(self, record: VmRecord, listener: Listener) -> QemuMachine:
        name = record.identity.name
        try:
            process = await QemuProcess.adopt(self.settings.run_dir / "q" / record.unit)
            try:
                # the record may be from just before the VM stepped aside: QEMU knows
                disks = tuple(await process.monitor.chain())
                paused = await process.monitor.status() == "paused"
                if paused and not record.paused:
                    await process.monitor.cont()  # an agent died in the middle of a freeze
                elif record.paused and not paused:
                    await process.monitor.stop()  # or before it did what it had written down
                machine = QemuVm(process, layers_of(process.pid), disks)
            except CopperError as error:
                await process.leave()
                raise NotFound(f"VM {name} does not answer: {error}") from error
        except NotFound:
            remove_log(self._log(name))
            raise
        self.groups.find(name, process.pid, process.shape, is_copy=process.is_copy)
        self.networks.adopt(record.identity.cluster, record.identity.vmid, record.exposure)
        made = self._connect(record.identity, machine, listener)
        made.limit(record.limits, again=True)
        if record.ready_ms:  # one that never was is undone
            with contextlib.suppress(CopperError):
                await made.link_up()  # as it was, or as it was about to be
        return made

    async def clear(self, known: set[str]) -> None:
        for alive in strays(self.settings.run_dir, known):
            log.info("ending QEMU %d, which no VM needs", alive.pid)
            alive.end()
        for entry in (self.settings.run_dir / "q").glob("*"):
            if entry.name not in known:
                await asyncio.to_thread(shutil.rmtree, entry, True)
        names = {machine.name for machine in self._machines}
        for group in await asyncio.to_thread(self.groups.found):
            if group.name not in names:
                await self.groups.remove_folder(group)
        for path in self.settings.vms_dir.glob("*.log*"):
            if path.name.split(".")[0] not in names:
                path.unlink()
        await self.networks.clear()
        await asyncio.to_thread(self._suspended.clear)
        if self._suspended.has_damaged():
            log.error("a suspended virtual cluster cannot be read: no disk is cleared away")
            return
        used = self._disks_in_use()
        for path in self.settings.disks_dir.glob("*.qcow2"):
            if path not in used:
                path.unlink()

    async def found(self) -> list[Found]:
        images = [Found(thing="image", name=name) for name in self.store.names()]
        return images + await asyncio.to_thread(self._place.found, self._held())

    def _held(self) -> Held:
        units = dict.fromkeys({*self._standbys.units(), *STARTING}, "(standby)")
        units |= self._thawing.units
        disks: dict[Path, str] = {}
        layers: dict[str, str] = {}
        for image in self._frozen.values():
            if image.seed is not None:
                units[image.seed.unit] = "(seed)"
            disks |= dict.fromkeys(image.disks, "(frozen)")
            layers |= dict.fromkeys((layer.id for layer in image.layers), "(frozen)")
        for image in self._templates.values():
            layers |= dict.fromkeys((layer.id for layer in image.layers), "(template)")
        for machine in list(self._machines):
            units[machine.unit] = machine.name
            disks |= dict.fromkeys(machine.disks, machine.name)
        return Held(units, disks, layers, frozenset(self._storing))

    async def mend(self, thing: str, name: str) -> None:
        held = self._held()
        if thing == "suspended" and name in self._stored:
            here = [vm for vm in self._stored[name].sizes() if vm in held.vms]
            if here:
                raise Refused(f"VM {here[0]} of suspended {name} is here")
            await self.forget_cluster(name)
            return
        await self._place.mend(thing, name, held)

    @property
    def standbys(self) -> int:
        return len(self._standbys)

    def prepare(self, shape: Shape, needs: Needs, count: int) -> None:
        if needs.accelerator == "tcg":  # clones are copies of their parents: what boots needs one
            count = min(count, self.settings.standbys)
        self._standbys.prepare(shape, needs, count)

    async def drop_standbys(self) -> None:
        for image in self._templates.values():
            await self._standbys.drop_shape(image.shape, image.needs)

    async def close(self) -> None:
        await self._huge_pages.close()
        await self._standbys.close()
        for image in (*self._frozen.values(), *self._templates.values()):
            image.close()
        self._frozen.clear()
        self._templates.clear()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.networks.close()
        os.close(self._lone_tap)
        with contextlib.suppress(OSError):
            (self.settings.run_dir / "q").rmdir()

    # for its machines

    def _hold(self, image: QemuImage) -> None:
        """A frozen image: nobody deletes its disks until `discard`."""
        self._frozen[image.id] = image
        if image.seed is not None:
            self._later(asyncio.to_thread(self.groups.put_back, image.seed.pid))
            self._later(image.seed.gone())

    def _later(self, what: Coroutine[None, None, None]) -> None:
        self._tasks.add(task := asyncio.create_task(what))
        task.add_done_callback(self._tasks.discard)

    def _let_go(self, machine: QemuMachine, ended: bool) -> None:
        self._machines.discard(machine)
        if ended:
            remove_log(self._log(machine.name))
            self._remove_disks(machine.disks)


def _open_lone_tap() -> int:
    try:
        return open_lone_tap()
    except OSError as error:
        raise CopperError(
            f"no tap can be made: {error.strerror}", advice="copper doctor says what is missing"
        ) from error


def _meminfo() -> dict[str, int]:
    """What the kernel says of the host's memory. Bytes."""
    text = Path("/proc/meminfo").read_text()
    found = re.findall(r"^(MemTotal|MemAvailable|SwapFree):\s+(\d+)", text, re.M)
    return {name: int(kib) << 10 for name, kib in found}
