"""Freeze: a running VM → an image. The VM runs on, over a new layer and a new overlay of its own."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from copper.image.disks import LONGEST_CHAIN, check_room, is_untouched, new_overlay
from copper.image.layers import Layer, held_bytes, joined
from copper.image.machine import Image, Machine, node_of
from copper.model.errors import CopperError, NoRoom
from copper.model.settings import MIB, Settings
from copper.vmm.layers import FLATTEN, PAGE, SKIP_ZERO, LayerReply, new_layer, seal
from copper.vmm.seed import Seed
from copper.wire.undo import whole

LONGEST_STACK = 8  # layers above the lowest, before they are joined into one
# below this own pages cost a pause less than copying ahead would; a VM that forks keeps so many, as its image does
COPY_AHEAD_PAGES = 4096
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Pause:
    """What one freeze cost: milliseconds in which the VM stood still, and pages of 4096 bytes."""

    pause_ms: float
    stop_ms: float
    devices_ms: float
    disk_ms: float
    memory_ms: float
    seed_ms: float
    cont_ms: float
    pages: int
    layer_bytes: int
    ahead_pages: int
    layers: int


def free_for_layers(settings: Settings) -> int:
    """Bytes that an image's memory may take now: the stated rule is `keep_free_mib` for the host."""
    with Path("/proc/meminfo").open() as meminfo:
        available = next(int(line.split()[1]) for line in meminfo if line.startswith("MemAvail"))
    free = (available << 10) - settings.keep_free_mib * MIB
    if settings.layers_mib:
        free = min(free, settings.layers_mib * MIB - held_bytes(["self"]))
    return free


def layer_id() -> str:
    """Sorts by time: a layer never lies below an older one."""
    return f"{time.time_ns():020d}-{secrets.token_hex(4)}"


async def freeze(
    machine: Machine,
    settings: Settings,
    *,
    quiesce: Callable[[], Awaitable[None]] | None = None,
    lowest: bool = False,
    step_aside: bool = True,
    run_on: bool = True,
    fork: bool = False,
    state: bool = True,
) -> tuple[Image, Pause]:
    """Makes an image of a running VM.

    `quiesce` stops whoever writes to the guest's channel; `lowest` is for a VM that was booted,
    whose memory becomes the lowest layer. With `run_on` false the VM stays stopped, whatever happens. With `fork` the
    image has a seed, where QEMU's process can be copied; without `state` it has nothing else then.
    Raises NoRoom or CopperError; the VM goes on as it was, and nothing is left.
    """
    async with machine.turn:
        if machine.shortening is not None:  # its last blocks, or a moment to give up
            await asyncio.gather(machine.shortening, return_exceptions=True)
            machine.shortening = None
        room = free_for_layers(settings)
        if room <= 0:
            raise NoRoom(
                "no memory left for an image",
                advice=f"{settings.keep_free_mib} MiB stay free: end VMs, or set COPPER_LAYERS_MIB",
            )
        layer = layer_id()
        fd = new_layer(layer)
        state_fd = os.memfd_create("copper-state", os.MFD_CLOEXEC)
        process = machine.process
        seed: Seed | None = None
        try:
            if fork:
                seed = Seed(settings.run_dir, process.shape, process.needs)
            fdset = await _lend(machine, state_fd) if state else None
            ahead, flags = await _copy_ahead(machine, fd, lowest, room)
            if step_aside:
                await _prepare_spare(machine, settings)
                if run_on:
                    await _step_ahead(machine, settings)
            if quiesce is not None:
                await quiesce()
            order = _Order(
                layer_fd=fd,
                most_bytes=room + (ahead.pages * PAGE if ahead else 0),
                state_fd=state_fd,
                fdset=fdset,
                flags=flags,
                step_aside=step_aside,
                run_on=run_on,
                seed=seed,
                # nothing was copied and nothing is to be joined: there is time for that when the VM runs again
                seed_saves=fdset is None and ahead is None and not flags,
            )
            saved, clock, disks, seeded = await _paused(machine, order)
            by_seed = saved is None
            if seed is not None and not seeded:
                seed.close()
                seed = None
            if saved is None:
                assert seed is not None
                saved = await seed.save(fd, most_bytes=order.most_bytes)
            seal(fd)
            devices = os.pread(state_fd, os.fstat(state_fd).st_size, 0)
            made = Layer(layer, fd)
        except BaseException:
            if seed is not None:
                seed.close()
            os.close(fd)
            raise
        finally:
            os.close(state_fd)
        if flags & FLATTEN:
            for old in machine.layers[1:]:
                old.close()
            del machine.layers[1:]
        below = [held.share() for held in machine.layers]
        if not by_seed:
            machine.layers.append(made.share())
        image = Image(
            id=layer,
            shape=process.shape,
            needs=process.needs,
            layers=[*below, made],
            state=devices,
            state_sha256=hashlib.sha256(devices).hexdigest(),
            disks=disks,
            seed=seed,
            unused=tuple(map(node_of, filter(None, (machine.disks[-1], machine.spare)))),
        )
    pause = Pause(
        pause_ms=sum(clock.spent.values()),
        stop_ms=clock.spent["stop"],
        devices_ms=clock.spent["devices"],
        disk_ms=clock.spent["disk"],
        memory_ms=clock.spent["memory"],
        seed_ms=clock.spent["seed"],
        cont_ms=clock.spent["cont"],
        pages=saved.pages,
        layer_bytes=made.bytes,
        ahead_pages=ahead.pages if ahead else 0,
        layers=len(image.layers),
    )
    return image, pause


async def _lend(machine: Machine, fd: int) -> int:
    """QEMU opens a lent file only in the very mode of its descriptor, and a memfd has another."""
    writable = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        return await machine.process.monitor.lend(writable)
    finally:
        os.close(writable)


async def _copy_ahead(
    machine: Machine, fd: int, lowest: bool, room: int
) -> tuple[LayerReply | None, int]:
    """Copies, while the VM runs, what can be: layers to be joined, and own pages when they are many.

    Raises NoRoom before anything is copied.
    """
    if lowest:
        return None, SKIP_ZERO
    control = machine.process.layers
    flatten = len(machine.layers) > LONGEST_STACK
    own = (await control.stat()).pages
    ranges = joined(machine.layers[1:]) if flatten else []
    wanted = own * PAGE + sum(length for _, length in ranges)
    if wanted > room:
        raise NoRoom(
            f"no memory left for an image: it needs {wanted >> 20} MiB, there is room for {room >> 20}",
            advice="end VMs, or set COPPER_KEEP_FREE_MIB or COPPER_LAYERS_MIB",
        )
    if not flatten and own < COPY_AHEAD_PAGES:
        return None, 0
    return await control.precopy(fd, ranges), FLATTEN if flatten else 0


async def _prepare_spare(machine: Machine, settings: Settings) -> None:
    if machine.spare is not None:
        return
    folder = settings.disks_dir
    check_room(folder, settings.keep_disk_mib, 1 << 20, "a fork")
    spare = new_overlay(folder, machine.disks[-1], machine.process.shape.disk_bytes)
    try:
        await machine.process.monitor.add_overlay([(node_of(spare), spare)])
    except BaseException:
        spare.unlink()
        raise
    machine.spare = spare


async def _step_ahead(machine: Machine, settings: Settings) -> None:
    """Puts the disk aside while the VM runs: one that writes nothing until it stands need not stand for that."""
    active = machine.disks[-1]
    if machine.ahead_in_vain or is_untouched(active):
        machine.ahead_in_vain = False
        return
    await whole(_onto_spare(machine))
    await _prepare_spare(machine, settings)
    machine.ahead_in_vain = True  # until it is found untouched in the pause


@dataclasses.dataclass(frozen=True)
class _Order:
    """What is to be done in a pause: into which files, lent or not, and what for."""

    layer_fd: int
    most_bytes: int
    state_fd: int
    fdset: int | None  # None: devices are not saved, unless there is no other way
    flags: int
    step_aside: bool
    run_on: bool
    seed: Seed | None
    seed_saves: bool


class _Clock:
    """Milliseconds that each step took, and any step again."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = collections.defaultdict(float)
        self._at = time.perf_counter()

    def lap(self, step: str) -> None:
        """All since the last step was this one."""
        now = time.perf_counter()
        self.spent[step] += (now - self._at) * 1000
        self._at = now


async def _paused(
    machine: Machine, order: _Order
) -> tuple[LayerReply | None, _Clock, tuple[Path, ...], bool]:
    """The pause itself: stop, devices, disk, memory, seed, in this order, and on; no memory where the seed saves it.

    Returns what was written, or None where the seed writes it; and whether there is a seed.
    """
    monitor, control = machine.process.monitor, machine.process.layers
    clock = _Clock()
    failed = True
    seeded = False
    saved: LayerReply | None = None
    try:
        await monitor.stop()
        clock.lap("stop")
        if order.fdset is not None:
            await monitor.save_devices(order.fdset)
            clock.lap("devices")
        frozen = machine.disks
        if order.step_aside and machine.spare is not None:
            frozen = await _step_aside(machine)
            clock.lap("disk")
        if order.seed is not None and order.seed_saves:
            seeded = await _seed(machine, order.seed)
            clock.lap("seed")
        if not seeded:
            saving = control.save(order.layer_fd, flags=order.flags, most_bytes=order.most_bytes)
            if order.fdset is not None:  # two threads of QEMU's
                saved, _ = await asyncio.gather(saving, monitor.take_back(order.fdset))
            else:
                saved = await saving
            clock.lap("memory")
        if order.seed is not None and not order.seed_saves:
            seeded = await _seed(machine, order.seed)
            clock.lap("seed")
        if not seeded and order.fdset is None:
            fdset = await _lend(machine, order.state_fd)
            await monitor.save_devices(fdset)
            await monitor.take_back(fdset)
            clock.lap("devices")
        failed = False
    finally:
        if failed:
            with contextlib.suppress(CopperError):  # the first error says what happened
                await control.abort()
        if order.run_on:
            await monitor.cont()
        clock.lap("cont")
    if machine.process.ended.is_set():  # its layers are given back: nothing can stand on them
        raise CopperError("QEMU ended while it was frozen")
    return saved, clock, frozen, seeded


async def _seed(machine: Machine, seed: Seed) -> bool:
    """False where QEMU cannot be copied: VMs are made by loading a state then."""
    process = machine.process
    try:
        await seed.make(process.layers)
    except CopperError as error:
        log.info("QEMU %s cannot be copied, its state is loaded instead: %s", process.unit, error)
        return False
    return True


async def _step_aside(machine: Machine) -> tuple[Path, ...]:
    """Returns the chain as it is at this instant; from now on the VM writes above it."""
    if len(machine.disks) > 1 and is_untouched(machine.disks[-1]):
        machine.ahead_in_vain = False
        return machine.disks[:-1]  # nothing written since the last time: nothing to keep
    frozen = machine.disks
    await whole(_onto_spare(machine))
    return frozen


async def _onto_spare(machine: Machine) -> None:
    """Puts the spare overlay on top of its chain: what it writes from now on goes there."""
    assert machine.spare is not None
    await machine.process.monitor.step_aside(node_of(machine.disks[-1]), node_of(machine.spare))
    machine.disks = (*machine.disks, machine.spare)
    machine.spare = None


def shorten(machine: Machine) -> None:
    """Pulls a chain that grew long into the VM's own file, while it runs; the old files end with their last user."""
    if len(machine.disks) - 2 < LONGEST_CHAIN or machine.shortening is not None:
        return
    machine.shortening = asyncio.create_task(_shorten(machine))


async def _shorten(machine: Machine) -> None:
    base, active = machine.disks[0], machine.disks[-1]
    try:
        await machine.process.monitor.pull_up(node_of(active), base, deadline_s=600)
    except CopperError as error:
        log.warning("the chain of disks of %s stays long: %s", machine.process.unit, error)
        return
    machine.disks = (base, active)
