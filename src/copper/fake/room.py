"""One fake host: its machines, images and memory. It outlives the host agent, as a real host does."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from copper.fake.faults import DURING, Faults, Verb
from copper.fake.process import FIRST_PID, LONGEST_STACK, FakeImage, FakeProcess, Layer
from copper.model.audit import Found
from copper.model.errors import BadInput, NoRoom, NotFound, Refused
from copper.model.machine import Shape
from copper.model.networks import Exposure

if TYPE_CHECKING:
    from copper.fake.hypervisor import FakeHypervisor
    from copper.fake.keep import Keep
    from copper.host.records import VmRecord
    from copper.image.suspended import SuspendedVm

MIB = 1 << 20
GIB = 1 << 30
SHAPES = {
    "micro": Shape(memory_mib=256, cpus=1, disk_bytes=256 * MIB),
    "debian-12": Shape(memory_mib=512, cpus=1, disk_bytes=2 * GIB),
}
WITH_SSH = {"debian-12"}  # images whose guests make host keys, and take a login key


@dataclasses.dataclass(slots=True)
class Delays:
    """Seconds that things take; 0 is no wait at all."""

    thaw_s: float = 0
    freeze_s: float = 0
    end_s: float = 0


class Clock:
    """A time that only a test moves, in seconds."""

    def __init__(self, now: float = 0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Room:
    """A host's machines, and how they behave: `delays`, `faults`, and what a new one takes.

    `own_bytes` is what a machine holds as soon as it runs, `growth` bytes for each second that it runs. Its processors
    are busy for `cpu_share` of the time. Free memory is what they and the layers below them leave.
    """

    def __init__(
        self,
        name: str = "fake-0",
        *,
        cpus: int = 16,
        memory_bytes: int = 64 * GIB,
        disk_bytes: int = 1024 * GIB,
        clock: Callable[[], float] = time.monotonic,
        keep: Keep | None = None,
    ) -> None:
        self.name = name
        self.cpus, self.memory_bytes, self.disk_bytes = cpus, memory_bytes, disk_bytes
        self.clock = clock
        self.own_bytes = 4 * MIB
        self.growth = 0.0
        self.cpu_share = 0.05
        self.runs_out = False  # whether the host agent guards its memory
        self.swap_bytes = 0
        self.delays = Delays()
        self.faults = Faults()
        self.images = {
            image: FakeImage(f"{image}@{name}", shape, (Layer(shape.memory_bytes // 4),))
            for image, shape in SHAPES.items()
        }
        self.processes: dict[str, FakeProcess] = {}
        self.frozen: dict[str, FakeImage] = {}
        self.records: dict[str, tuple[object, ...]] = {}
        self.suspended: dict[str, list[tuple[SuspendedVm, FakeImage]]] = {}
        self._brought: dict[str, FakeProcess] = {}  # by public address
        self._numbers = itertools.count(1)
        self._layer_bytes = 0
        self._still_bytes = 0.0  # own memory of those that do not grow
        self._growing: set[FakeProcess] = set()
        self._swapped: dict[str, float] = {}  # by unit
        self._serving: FakeHypervisor | None = None
        self._keep = keep
        if keep is not None:
            self._find_again(keep)

    def _find_again(self, keep: Keep) -> None:
        self.suspended = keep.clusters()
        self.records = {record.identity.name: values_of(record) for record in keep.records.all()}
        for process in keep.machines():
            self._put(process)
        last = max((process.pid for process in self.processes.values()), default=FIRST_PID)
        self._numbers = itertools.count(last - FIRST_PID + 1)

    # the host agent's life

    def serve(self, hypervisor: FakeHypervisor | None) -> None:
        """Another host agent takes over; what the former one still does has no effect from now on."""
        if self._serving is not None:
            self._serving.cut()
        self._serving = hypervisor
        for process in self.processes.values():
            process.machine = None
        for image in list(self.frozen):
            self.discard(image)

    def kill_agent(self) -> None:
        """As `kill -9` of the host agent: its machines run on, and what it only remembered is lost."""
        self.serve(None)

    # what a test or a program in a guest does

    def find(self, vm: str) -> FakeProcess:
        """The machine that is this VM. Raises NotFound."""
        found = [process for process in self.processes.values() if process.name == vm]
        if not found:
            raise NotFound(f"no fake machine is {vm!r}")
        return found[0]

    async def call(self, vm: str, verb: str, args: dict[str, Any] | None = None) -> dict[str, Any]:
        """A program in a guest calls Copper; its result. Raises OSError as guests' programs get it."""
        machine = self.find(vm).machine
        if machine is None:
            raise ConnectionRefusedError(f"nobody listens to {vm}")
        return await machine.guest.call(verb, args or {})

    def die(self, vm: str, reason: str = "its QEMU was killed") -> None:
        """The machine ends on its own."""
        self.end(self.find(vm), reason)

    def run_out_of_memory(self, vm: str) -> None:
        """The guest's kernel finds no more memory, and panics."""
        process = self.find(vm)
        self.use(process, process.shape.memory_bytes, 0)
        self.end(process, "the guest's kernel panicked")

    def set_own(self, vm: str, own_bytes: int, growth: float = 0) -> None:
        """From now on; growth in bytes a second."""
        self.use(self.find(vm), own_bytes, growth)

    # memory

    def room_bytes(self) -> int:
        """Memory that nobody has, never less than 0."""
        now = self.clock()
        growing = tuple(self._growing)  # a host agent's brake asks from another thread
        for process in growing:
            process.count(now)
        own = self._still_bytes + sum(process.own for process in growing)
        swapped = self.swap_bytes - self.swap_free_bytes
        return max(0, self.memory_bytes - self._layer_bytes - int(own) + swapped)

    @property
    def swap_free_bytes(self) -> int:
        return int(self.swap_bytes - sum(self._swapped.values()))

    def page_out(self, process: FakeProcess) -> None:
        """What it holds goes to swap, as far as there is room, until `use`."""
        self._swapped.pop(process.unit, None)
        self._swapped[process.unit] = min(process.own, self.swap_free_bytes)

    def use(self, process: FakeProcess, own: float, growth: float) -> None:
        """Sets what a machine holds."""
        process.count(self.clock())
        self._forget(process)
        process.own, process.growth = float(own), growth
        if growth:
            self._growing.add(process)
        else:
            self._still_bytes += own

    def _forget(self, process: FakeProcess) -> None:
        if process.growth:
            self._growing.discard(process)
        else:
            self._still_bytes -= process.own
        process.own = process.growth = 0.0
        self._swapped.pop(process.unit, None)

    def _share(self, layers: Iterable[Layer]) -> None:
        for layer in layers:
            layer.users += 1
            if layer.users == 1:
                self._layer_bytes += layer.bytes

    def _unshare(self, layers: Iterable[Layer]) -> None:
        for layer in layers:
            layer.users -= 1
            if not layer.users:
                self._layer_bytes -= layer.bytes

    # machines and images

    def start(self, image: FakeImage, name: str) -> FakeProcess:
        """A machine of this image, its processors stopped. Raises NoRoom."""
        if self.room_bytes() < self.own_bytes:
            raise NoRoom(f"no memory left for a VM on {self.name}")
        pid = FIRST_PID + next(self._numbers)
        process = FakeProcess(pid, name, image.shape, image.layers)
        if self._keep is not None:
            self._keep.write(process)
        self._put(process)
        return process

    def _put(self, process: FakeProcess) -> None:
        self._share(process.layers)
        self._set(process, process.exposure)
        self.use(process, self.own_bytes, 0)
        self.processes[process.unit] = process

    def end(self, process: FakeProcess, reason: str) -> None:
        """It is gone, and whoever watches it is told. Twice has one effect."""
        if self.processes.pop(process.unit, None) is None:
            return
        if self._keep is not None:
            self._keep.remove(process)
        process.count(self.clock())
        self._forget(process)
        self._set(process, None)
        process.since, process.reason = None, reason
        self._unshare(process.layers)
        if process.machine is not None:
            process.machine.died(reason)

    def set_running(self, process: FakeProcess, running: bool) -> None:
        """Starts or stops its processors. Raises CopperError when it has ended."""
        process.check()
        now = self.clock()
        process.count(now)
        process.since = now if running else None
        if running and process.growth != self.growth and not process.ran_s:
            self.use(process, process.own, self.growth)

    def expose(self, process: FakeProcess, exposure: Exposure) -> None:
        """How the world reaches it from now on. Raises Refused where an address is another machine's, NoRoom."""
        process.check()
        for one in exposure.addresses:
            other = self._brought.get(one.address, process)
            if other is not process:
                raise Refused(f"{one.address} is brought to {other.name} already")
        before = process.exposure
        self._set(process, None if exposure.is_private else exposure)
        if self._keep is not None:
            try:
                self._keep.write(process)
            except NoRoom:
                self._set(process, before)
                raise

    def _set(self, process: FakeProcess, exposure: Exposure | None) -> None:
        for one in process.exposure.addresses if process.exposure else ():
            self._brought.pop(one.address, None)
        process.exposure = exposure
        for one in exposure.addresses if exposure else ():
            self._brought[one.address] = process

    def freeze(self, process: FakeProcess) -> tuple[FakeImage, int]:
        """What the machine wrote since its last freeze becomes a layer: the image, and the layer's bytes."""
        process.check()
        if not self.room_bytes():
            raise NoRoom(f"no memory left for an image on {self.name}")
        process.count(self.clock())
        fresh = Layer(int(process.own))
        lowest, *above = process.layers
        if len(above) >= LONGEST_STACK:
            fresh = Layer(fresh.bytes + sum(layer.bytes for layer in above))
            above = []
        image = self.hold(process.shape, (lowest, *above, fresh))
        self._share(image.layers)
        self._unshare(process.layers)
        process.layers = image.layers
        self.use(process, 0, process.growth)
        return image, fresh.bytes

    def store(self, cluster: str, stored: list[tuple[SuspendedVm, FakeImage]]) -> None:
        """A suspended virtual cluster: it takes no memory. Raises NoRoom."""
        if self._keep is not None:
            self._keep.write_cluster(cluster, stored)
        self.suspended[cluster] = stored

    def drop(self, cluster: str) -> None:
        """Removes what is stored of it, if anything is."""
        if self._keep is not None:
            self._keep.remove_cluster(cluster)
        self.suspended.pop(cluster, None)

    def hold(self, shape: Shape, layers: tuple[Layer, ...]) -> FakeImage:
        """An image in the host's memory, until `discard`."""
        image = FakeImage(f"{self.name}-{next(self._numbers)}", shape, layers)
        self._share(layers)
        self.frozen[image.id] = image
        return image

    def discard(self, image_id: str) -> None:
        """A frozen image goes with the last machine that stands on it."""
        image = self.frozen.pop(image_id, None)
        if image is not None:
            self._unshare(image.layers)

    # what an audit sees

    def found(self) -> list[Found]:
        """All that is here, and whose it is."""
        found = [
            Found(
                thing="process",
                name=process.unit,
                vm=process.name if process.machine else "",
                detail="" if process.machine else f"it was {process.name}",
            )
            for process in list(self.processes.values())
        ]
        found += [
            Found(
                thing="exposure",
                name=process.name,
                vm=process.name if process.machine else "",
                detail=process.exposure.summary,
            )
            for process in self.processes.values()
            if process.exposure is not None
        ]
        found += [Found(thing="record", name=name, vm=name) for name in list(self.records)]
        found += [Found(thing="memory-file", name=image, vm="(frozen)") for image in self.frozen]
        found += [Found(thing="suspended", name=cluster, vm=cluster) for cluster in self.suspended]
        return found

    def mend(self, thing: str, name: str) -> None:
        """Removes one thing that was found, if nobody uses it. Raises BadInput, Refused."""
        held = {process.name for process in self.processes.values() if process.machine}
        if thing == "process":
            process = self.processes.get(name)
            if process is not None and process.machine is not None:
                raise Refused(f"fake machine {name} is VM {process.name}")
            if process is not None:
                self.end(process, "no VM needs it")
        elif thing == "record":
            if name in held:
                raise Refused(f"VM {name} runs")
            self.forget(name)
        elif thing == "exposure":
            if name in held:
                raise Refused(f"VM {name} runs")
            for process in self.processes.values():
                if process.name == name:
                    self._set(process, None)
        elif thing == "suspended":
            self.drop(name)
        else:
            raise BadInput(f"a fake host has no {thing} to be removed")

    def write_down(self, record: VmRecord) -> None:
        """A VM's record. Raises NoRoom."""
        if self._keep is not None:
            self._keep.records.write(record)
        self.records[record.identity.name] = values_of(record)

    def forget(self, name: str) -> None:
        """A VM's record goes, if there is one."""
        if self._keep is not None:
            self._keep.records.remove(name)
        self.records.pop(name, None)

    async def fault(self, verb: Verb, process: FakeProcess | None = None) -> None:
        """What was planned for this verb happens here. Raises CopperError."""
        fault = self.faults.take(verb, DURING)
        if fault is None:
            return
        if fault.kind == "hang":
            await self.faults.hold(fault)
        elif fault.kind == "die" and process is not None:
            self.end(process, "its QEMU was killed")
        else:
            raise fault.error

    async def pass_by(self, delay_s: float) -> None:
        """Takes so long."""
        if delay_s:
            await asyncio.sleep(delay_s)


def values_of(record: VmRecord) -> tuple[object, ...]:
    """A record's values in the order of its fields: a tenth of the memory that the record takes."""
    values = record.__dict__.values()
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)
