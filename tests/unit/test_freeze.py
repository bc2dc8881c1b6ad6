"""A freeze over a QEMU that is played: in which order its pause goes, and that nothing is left where it fails."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from copper.image.disks import CLUSTER, new_overlay
from copper.image.freeze import COPY_AHEAD_PAGES, LONGEST_STACK, Pause, freeze
from copper.image.layers import Layer
from copper.image.machine import Image, Machine
from copper.model.errors import CopperError, NoRoom
from copper.model.machine import Needs, Shape
from copper.model.settings import Settings
from copper.vmm.layers import PAGE, LayerReply, new_layer, seal
from copper.vmm.seed import Seed

SHAPE = Shape(memory_mib=32, cpus=1, disk_bytes=1 << 20)
NEEDS = Needs(qemu="7.2.22", machine="pc-q35-7.2", accelerator="tcg", processor="qemu64")
WRITTEN = LayerReply(1, 1, 0, 0, 0, 0, False)


def write_layer(fd: int) -> None:
    """One page of memory, the first."""
    header = struct.pack("<8sIIQQQQ", b"COPPERL1", 1, PAGE, SHAPE.memory_bytes, 1, 2 * PAGE, 1)
    os.pwrite(fd, header, 0)
    os.pwrite(fd, b"x" * PAGE, PAGE)
    os.pwrite(fd, struct.pack("<QQQ", 0, PAGE, PAGE), 2 * PAGE)


def a_layer(name: str) -> Layer:
    fd = new_layer(name)
    write_layer(fd)
    seal(fd)
    return Layer(name, fd)


class Played:
    """QEMU's process, monitor and layers in one; `did` is what was asked of it and of its seed, in order."""

    shape, needs, unit = SHAPE, NEEDS, "0123456789ab"

    def __init__(self) -> None:
        self.did: list[str] = []
        self.own = 10
        self.refuses: dict[str, BaseException] = {}
        self.ended = asyncio.Event()
        self.seeds: list[subprocess.Popen[bytes]] = []
        self.writing, self.aside = asyncio.Event(), asyncio.Event()
        self.lent = -1
        self.monitor = self.layers = cast(Any, self)

    def do(self, step: str) -> None:
        self.did.append(step)
        if error := self.refuses.get(step):
            raise error

    # the monitor

    async def stop(self) -> None:
        self.do("stop")

    async def cont(self) -> None:
        self.do("cont")

    async def lend(self, fd: int) -> int:
        self.lent = os.dup(fd)
        return 1

    async def save_devices(self, fdset: int) -> None:
        self.do("devices")
        os.write(self.lent, b"state")

    async def take_back(self, fdset: int) -> None:
        os.close(self.lent)

    async def add_overlay(self, chain: Sequence[tuple[str, Path]]) -> None:
        assert all(path.exists() for _, path in chain)

    async def step_aside(self, node: str, overlay: str) -> None:
        self.do("aside")
        self.aside.set()
        await asyncio.sleep(0)

    # its layers

    async def stat(self) -> LayerReply:
        return dataclasses.replace(WRITTEN, pages=self.own)

    async def precopy(self, fd: int, ranges: Sequence[object]) -> LayerReply:
        self.do("ahead")
        return dataclasses.replace(WRITTEN, pages=self.own)

    async def save(self, fd: int, *, flags: int, most_bytes: int) -> LayerReply:
        self.do("save")
        write_layer(fd)
        return WRITTEN

    async def make_seed(self, connection: int, unit: str) -> int:
        self.do("seed")
        return self.copied()

    def copied(self) -> int:
        self.seeds.append(subprocess.Popen(["sleep", "60"]))
        return self.seeds[-1].pid

    async def abort(self) -> None:
        self.did.append("abort")

    # its seed

    async def seed_saves(self, fd: int, *, most_bytes: int) -> LayerReply:
        self.writing.set()
        await asyncio.sleep(0)
        self.do("seed saves")
        write_layer(fd)
        return WRITTEN


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """One that stands on its template's layer; what it had is let go of at the end."""
    played = Played()
    monkeypatch.setattr(Seed, "save", lambda _, fd, **more: played.seed_saves(fd, **more))
    made = Machine(cast(Any, played), [a_layer("0")], (Path("disk.qcow2"),))
    yield made
    for layer in made.layers:
        layer.close()
    for process in played.seeds:
        process.kill()
        process.wait()


def played_by(machine: Machine) -> Played:
    return cast(Played, machine.process)


async def frozen(
    machine: Machine, folder: Path, *, state: bool = False, disk: bool = False, run_on: bool = True
) -> tuple[Image, Pause]:
    settings = Settings(run_dir=folder, state_dir=folder, keep_free_mib=0, keep_disk_mib=0)
    return await freeze(machine, settings, step_aside=disk, fork=run_on, state=state, run_on=run_on)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_vm_that_forks_runs_again_before_its_pages_are_written(
    machine: Machine, tmp_path: Path
) -> None:
    image, pause = await frozen(machine, tmp_path)
    assert played_by(machine).did == ["stop", "seed", "cont", "seed saves"]
    assert image.seed is not None and image.seed.pid == played_by(machine).seeds[0].pid
    assert [layer.id for layer in machine.layers] == ["0"]  # its own pages are its own still
    assert [layer.id for layer in image.layers] == ["0", image.id]
    assert (pause.memory_ms, pause.pages, pause.layers) == (0, 1, 2)
    image.close()


@pytest.mark.parametrize("own", [COPY_AHEAD_PAGES - 1, COPY_AHEAD_PAGES])
async def test_what_is_much_is_copied_ahead_and_shared_from_then_on(
    own: int, machine: Machine, tmp_path: Path
) -> None:
    played_by(machine).own = own
    image, _ = await frozen(machine, tmp_path)
    if own < COPY_AHEAD_PAGES:
        assert "ahead" not in played_by(machine).did
    else:
        assert played_by(machine).did == ["ahead", "stop", "save", "seed", "cont"]
        assert [layer.id for layer in machine.layers] == ["0", image.id]
    image.close()


async def test_a_stack_that_is_high_is_joined_ahead(machine: Machine, tmp_path: Path) -> None:
    machine.layers += [a_layer(f"{n}") for n in range(1, LONGEST_STACK + 1)]
    image, _ = await frozen(machine, tmp_path)
    assert played_by(machine).did == ["ahead", "stop", "save", "seed", "cont"]
    assert [layer.id for layer in image.layers] == ["0", image.id]
    image.close()


async def test_what_has_a_state_is_written_while_it_stands(
    machine: Machine, tmp_path: Path
) -> None:
    image, pause = await frozen(machine, tmp_path, state=True)
    assert played_by(machine).did == ["stop", "devices", "save", "seed", "cont"]
    assert image.state == b"state" and image.seed is not None
    assert pause.memory_ms > 0 and pause.devices_ms > 0
    image.close()


async def test_a_qemu_that_cannot_be_copied_has_a_state_instead(
    machine: Machine, tmp_path: Path
) -> None:
    played_by(machine).refuses = {"seed": CopperError("guest memory: Operation not supported")}
    before = open_files()
    image, _ = await frozen(machine, tmp_path)
    assert played_by(machine).did == ["stop", "seed", "save", "devices", "cont"]
    assert image.seed is None and image.state == b"state"
    assert [layer.id for layer in machine.layers] == ["0", image.id]
    assert list((tmp_path / "q").iterdir()) == []
    image.close()
    machine.layers.pop().close()
    assert open_files() == before


def write_disk(machine: Machine) -> None:
    """As its guest does when it writes."""
    with machine.disks[-1].open("ab") as disk:
        disk.write(b"x" * CLUSTER)


@pytest.fixture
def disk(machine: Machine, tmp_path: Path) -> Path:
    """What it wrote since its boot, over its image's disk."""
    folder = Settings(state_dir=tmp_path).disks_dir
    folder.mkdir(parents=True)
    machine.disks = (Path("base.qcow2"), new_overlay(folder, Path("base.qcow2"), SHAPE.disk_bytes))
    write_disk(machine)
    return machine.disks[-1]


async def test_a_disk_that_was_written_is_put_aside_before_the_vm_stands_still(
    machine: Machine, disk: Path, tmp_path: Path
) -> None:
    played = played_by(machine)
    image, _ = await frozen(machine, tmp_path, disk=True)
    assert played.did == ["aside", "stop", "seed", "cont", "seed saves"]
    assert image.disks == (Path("base.qcow2"), disk)
    assert machine.disks[:-1] == image.disks and machine.spare not in (None, machine.disks[-1])
    image.close()
    played.did.clear()
    again, _ = await frozen(machine, tmp_path, disk=True)  # nothing was written since
    assert "aside" not in played.did and again.disks == image.disks
    again.close()


async def test_a_disk_that_is_written_all_the_time_is_put_aside_ahead_every_other_time(
    machine: Machine, disk: Path, tmp_path: Path
) -> None:
    played = played_by(machine)
    stop = played.stop

    async def stop_writing() -> None:
        write_disk(machine)
        await stop()

    played.stop = stop_writing  # type: ignore[method-assign]
    asides = []
    for _ in range(4):
        played.did.clear()
        write_disk(machine)
        image, _ = await frozen(machine, tmp_path, disk=True)
        assert image.disks == machine.disks[:-1]
        asides.append((played.did.index("stop"), played.did.count("aside")))
        image.close()
    assert asides == [(1, 2), (0, 1), (1, 2), (0, 1)]


async def test_a_fork_that_is_given_up_while_the_disk_is_put_aside_knows_the_chain(
    machine: Machine, disk: Path, tmp_path: Path
) -> None:
    task = asyncio.create_task(frozen(machine, tmp_path, disk=True))
    await played_by(machine).aside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert played_by(machine).did == ["aside"]
    assert machine.disks[:-1] == (Path("base.qcow2"), disk) and machine.spare is None
    assert machine.disks[-1].exists()


async def test_a_vm_that_does_not_run_on_has_its_disk_put_aside_while_it_stands(
    machine: Machine, disk: Path, tmp_path: Path
) -> None:
    image, _ = await frozen(machine, tmp_path, disk=True, state=True, run_on=False)
    assert played_by(machine).did == ["stop", "devices", "aside", "save"]
    assert image.disks == (Path("base.qcow2"), disk)
    image.close()


FULL = NoRoom("no memory left for an image: it needs 7 MiB")
GONE = CopperError("QEMU ended or was lost during stop")


@pytest.mark.parametrize(
    ("step", "error", "did"),
    [
        ("stop", GONE, ["stop", "abort", "cont"]),
        ("seed", OSError("no more files"), ["stop", "seed", "abort", "cont"]),
        ("cont", GONE, ["stop", "seed", "cont"]),
        ("seed saves", FULL, ["stop", "seed", "cont", "seed saves"]),
    ],
)
async def test_a_fork_that_fails_leaves_nothing(
    step: str, error: Exception, did: list[str], machine: Machine, tmp_path: Path
) -> None:
    played_by(machine).refuses = {step: error}
    before = open_files()
    with pytest.raises(type(error), match=str(error)):
        await frozen(machine, tmp_path)
    assert played_by(machine).did == did
    await is_left(machine, tmp_path, before)


async def test_a_fork_that_is_given_up_while_its_seed_writes_leaves_nothing(
    machine: Machine, tmp_path: Path
) -> None:
    before = open_files()
    task = asyncio.create_task(frozen(machine, tmp_path))
    await played_by(machine).writing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert played_by(machine).did == ["stop", "seed", "cont"]
    await is_left(machine, tmp_path, before)


async def is_left(machine: Machine, folder: Path, files: int) -> None:
    """The machine as it was, and no more."""
    assert [layer.id for layer in machine.layers] == ["0"]
    async with asyncio.timeout(20):
        while list((folder / "q").iterdir()) or open_files() != files:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not machine.turn.locked()
