"""The hypervisor of a fake host, and its machines."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from copper.fake.guest import FakeGuest
from copper.fake.process import NEEDS, FakeImage, FakeProcess, refused
from copper.fake.room import SHAPES, WITH_SSH, Room
from copper.host import hypervisor as seam
from copper.host.records import VmRecord
from copper.image.freeze import Pause
from copper.image.suspended import SuspendedVm
from copper.model.api import ImageInfo, VmLimits
from copper.model.audit import Found
from copper.model.errors import CopperError, NotFound
from copper.model.machine import Identity, Needs, Shape
from copper.model.networks import Exposure
from copper.vmm.capabilities import Verdict

PAGE = 4096
VERDICT = Verdict("tcg", "machines are fake", proven=True)


class FakeHypervisor:
    """A host agent's hold on a room. When another takes over, what this one does has no effect."""

    def __init__(self, room: Room) -> None:
        self.seen = room  # also when it is another's
        self._cut = False
        self._standbys: dict[Shape, int] = {}
        room.serve(self)

    @property
    def place(self) -> Room:
        """The room. Raises CopperError when another host agent has it."""
        if self._cut:
            raise CopperError("this host agent was killed")
        return self.seen

    def cut(self) -> None:
        """Another host agent has the room now."""
        self._cut = True

    @property
    def verdict(self) -> Verdict:
        return VERDICT

    @property
    def version(self) -> str:
        return NEEDS.qemu

    @property
    def machine(self) -> str:
        return NEEDS.machine

    def room(self) -> seam.Room:
        place = self.place
        free = place.room_bytes()
        return seam.Room(
            cpus=place.cpus,
            memory_bytes=place.memory_bytes,
            free_bytes=free,
            available_bytes=free if place.runs_out else None,
            swap_free_bytes=place.swap_free_bytes,
            disk_bytes=place.disk_bytes,
            disk_free_bytes=place.disk_bytes,
        )

    def available_bytes(self) -> int | None:
        return self.seen.room_bytes() if self.seen.runs_out else None

    def images(self) -> list[ImageInfo]:
        return [
            ImageInfo(
                name=name,
                recipe=name,
                created=0,
                memory_mib=image.shape.memory_mib,
                cpus=image.shape.cpus,
                disk_bytes=image.shape.disk_bytes,
                stored_bytes=0,
                accelerator=NEEDS.accelerator,
                users=[],
                ssh=name in WITH_SSH,
            )
            for name, image in self.place.images.items()
        ]

    async def template(self, name: str) -> FakeImage:
        if self.place.faults:
            await self.place.fault("template")
        image = self.place.images.get(name)
        if image is None:
            known = ", ".join(self.place.images) or "there are none"
            raise NotFound(f"there is no image {name!r}", advice=f"images: {known}")
        return image

    async def delete_image(self, name: str) -> None:
        await self.template(name)
        del self.place.images[name]

    def discard(self, image: seam.Image) -> None:
        self.place.discard(image.id)

    async def thaw(
        self, image: seam.Image, identity: Identity, listener: seam.Listener
    ) -> FakeMachine:
        assert isinstance(image, FakeImage)
        place = self.place
        await place.pass_by(place.delays.thaw_s)
        process = self.place.start(image, identity.name)
        self._standbys[image.shape] = max(0, self._standbys.get(image.shape, 0) - 1)
        try:
            if place.faults:
                await place.fault("thaw", process)
                process.check()
            return FakeMachine(self, process, identity, listener)
        except BaseException:
            if not self._cut:
                place.end(process, "it was not thawed")
            raise

    async def adopt(self, record: VmRecord, listener: seam.Listener) -> FakeMachine:
        place = self.place
        if place.faults:
            await place.fault("adopt")
        process = place.processes.get(record.unit)
        if process is None or process.name != record.identity.name:
            raise NotFound(f"no fake machine is {record.unit}")
        if process.since is None and not record.paused:
            place.set_running(process, True)  # an agent died in the middle of a freeze
        return FakeMachine(self, process, record.identity, listener)

    def suspended(self) -> dict[str, dict[str, int]]:
        return {
            cluster: {vm.identity.name: image.layers[-1].bytes for vm, image in stored}
            for cluster, stored in self.place.suspended.items()
        }

    async def store_cluster(
        self, cluster: str, frozen: Sequence[tuple[SuspendedVm, seam.Image]]
    ) -> None:
        if self.place.faults:
            await self.place.fault("suspend")
        stored = [(vm, image) for vm, image in frozen if isinstance(image, FakeImage)]
        self.place.store(cluster, stored)

    async def load_cluster(self, cluster: str) -> list[tuple[SuspendedVm, seam.Image]]:
        if self.place.faults:
            await self.place.fault("resume")
        stored = self.place.suspended.get(cluster)
        if stored is None:
            raise NotFound(f"virtual cluster {cluster} is not stored on {self.place.name}")
        return [(vm, self.place.hold(image.shape, image.layers)) for vm, image in stored]

    async def forget_cluster(self, cluster: str) -> None:
        if self.place.faults:
            await self.place.fault("discard")
        self.place.drop(cluster)

    async def clear(self, known: set[str]) -> None:
        for process in list(self.place.processes.values()):
            if process.unit not in known:
                self.place.end(process, "no VM needs it")

    async def found(self) -> list[Found]:
        images = [Found(thing="image", name=image.name) for image in self.images()]
        return images + self.place.found()

    async def mend(self, thing: str, name: str) -> None:
        self.place.mend(thing, name)

    @property
    def standbys(self) -> int:
        return sum(self._standbys.values())

    def prepare(self, shape: Shape, needs: Needs, count: int) -> None:
        self._standbys[shape] = max(count, self._standbys.get(shape, 0))

    async def drop_standbys(self) -> None:
        self._standbys.clear()

    async def close(self) -> None:
        if not self._cut:
            self.seen.kill_agent()


class FakeMachine:
    """A machine of a room in the hands of a host agent."""

    __slots__ = ("_guest", "_held", "_hypervisor", "_process", "_watched", "identity", "listener")

    def __init__(
        self,
        hypervisor: FakeHypervisor,
        process: FakeProcess,
        identity: Identity,
        listener: seam.Listener,
    ) -> None:
        self._hypervisor, self._process = hypervisor, process
        self.identity, self.listener = identity, listener
        self._guest: FakeGuest | None = None
        self._watched = self._held = False
        process.machine = self

    @property
    def name(self) -> str:
        return self._process.name

    @property
    def unit(self) -> str:
        return self._process.unit

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def shape(self) -> Shape:
        return self._process.shape

    @property
    def needs(self) -> Needs:
        return NEEDS

    @property
    def forks_by_copy(self) -> bool:
        return False

    @property
    def disks(self) -> tuple[Path, ...]:
        return ()

    @property
    def layers(self) -> int:
        return len(self._process.layers)

    @property
    def shared_bytes(self) -> int:
        return sum(layer.bytes for layer in self._process.layers)

    @property
    def has_network(self) -> bool:
        return False

    async def link_up(self) -> None:
        """There is no wire."""

    @property
    def has_ssh(self) -> bool:
        """Whether its guest makes host keys and takes a login key: its image is known by its shape."""
        return any(self.shape == SHAPES[image] for image in WITH_SSH)

    async def connect(self, port: int) -> socket.socket:
        self.process.check()
        return self.guest.connect(port)

    async def expose(self, exposure: Exposure) -> None:
        if self.place.faults:
            await self.place.fault("expose", self._process)
        self.place.expose(self.process, exposure)

    @property
    def guest(self) -> FakeGuest:
        if self._guest is None:
            self._guest = FakeGuest(self)
        return self._guest

    @property
    def console(self) -> FakeMachine:
        return self

    def attach(self) -> AbstractContextManager[AsyncIterator[bytes]]:
        raise refused("serial line")

    async def write(self, data: bytes) -> None:
        raise refused("serial line")

    def log(self) -> bytes:
        raise refused("serial line")

    @property
    def place(self) -> Room:
        """Raises CopperError when the host agent was killed."""
        return self._hypervisor.place

    @property
    def process(self) -> FakeProcess:
        """Raises CopperError when it has ended, or the host agent was killed."""
        self._hypervisor.place  # noqa: B018
        self._process.check()
        return self._process

    def own_bytes(self) -> int:
        self._process.count(self._hypervisor.seen.clock())
        return int(self._process.own)

    def used(self) -> seam.Used:
        own = self.own_bytes()
        cpu_s = self._process.ran_s * self._hypervisor.seen.cpu_share * self.shape.cpus
        return seam.Used(own, cpu_s, 0, 0)

    def page_out(self) -> None:
        self.place.page_out(self.process)

    async def run(self) -> None:
        if self.place.faults:
            await self.place.fault("run", self._process)
        self.place.set_running(self.process, True)

    async def pause(self) -> None:
        if self.place.faults:
            await self.place.fault("pause", self._process)
        self._held = False
        self.place.set_running(self.process, False)

    def hold(self) -> None:
        if self._process.since is not None:
            self._held = True
            self._hypervisor.seen.set_running(self._process, False)

    def go_on(self) -> None:
        if self._held:
            self._held = False
            self.place.set_running(self.process, True)

    async def freeze(self, *, run_on: bool = True) -> tuple[FakeImage, Pause]:
        place = self.place
        await place.pass_by(place.delays.freeze_s)
        if place.faults:
            await place.fault("freeze", self._process)
        was_running = self.process.since is not None
        image, size = self.place.freeze(self.process)
        place.set_running(self._process, was_running and run_on)
        ms = place.delays.freeze_s * 1000
        pages = size // PAGE
        return image, Pause(ms, 0, 0, 0, ms, 0, 0, pages, size, 0, len(image.layers))

    def limit(self, limits: VmLimits) -> None:
        process = self._process
        process.most_bytes = limits.own_bytes or process.shape.memory_bytes
        self.place.use(process, min(process.own, process.most_bytes), process.growth)

    def watch(self) -> None:
        self._watched = True
        if self._process.reason is not None:
            self.died(self._process.reason)

    def died(self, reason: str) -> None:
        """The room says so."""
        if self._guest is not None:
            self._guest.lost(CopperError("the guest's channel was closed"))
        if self._watched:
            self._watched = False
            asyncio.get_running_loop().call_soon(self._say_ended, reason)

    def _say_ended(self, reason: str) -> None:
        self.listener.ended(self, reason)

    async def end(self) -> None:
        place = self.place
        if self._process.reason is None:
            await place.pass_by(place.delays.end_s)
            if place.faults:
                await place.fault("end", self._process)
        self._watched = False
        self.place.end(self._process, "it was ended")
        if self._guest is not None:
            await self._guest.close()

    async def leave(self) -> None:
        self._watched = False
        self._process.machine = None
        if self._guest is not None:
            self._guest.lost(CopperError("the host agent ends"))
            await self._guest.close()


class RoomRecords:
    """The records of a room's VMs; those of a host agent that was killed change nothing."""

    def __init__(self, hypervisor: FakeHypervisor) -> None:
        self._hypervisor = hypervisor

    def write(self, record: VmRecord) -> None:
        self._hypervisor.place.write_down(record)

    def remove(self, name: str) -> None:
        self._hypervisor.place.forget(name)

    def all(self) -> list[VmRecord]:
        return [
            VmRecord.model_validate(dict(zip(VmRecord.model_fields, kept, strict=True)))
            for kept in self._hypervisor.place.records.values()
        ]
