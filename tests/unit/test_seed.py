"""Copies of a QEMU that ends in the middle of it: whoever waits hears of it, and no copy stays without an owner."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from copper.model.errors import CopperError, TimedOut
from copper.model.machine import Needs, Shape
from copper.model.settings import from_environment
from copper.vmm.layers import FORK, SEED, STAT, LayerControl
from copper.vmm.process import QemuProcess
from copper.vmm.seed import Seed

SHAPE = Shape(memory_mib=32, cpus=1, disk_bytes=1 << 20)
NEEDS = Needs(qemu="7.2.22", machine="pc-q35-7.2", accelerator="tcg", processor="max")
LAYERS = 7  # of FORK's descriptors (native/layers.h: enum role)


def heard(connection: socket.socket) -> tuple[int, list[int]]:
    """The verb of the next request and its descriptors, which are the caller's; 0 at the end."""
    raw, fds, _, _ = socket.recv_fds(connection, 1 << 16, 64)
    return (struct.unpack_from("=I", raw)[0] if raw else 0), fds


def answer(connection: socket.socket, *, pages: int = 0, error: int = 0) -> None:
    connection.send(struct.pack("=iI7Q", error, 0, pages, *[0] * 6))


def pair() -> tuple[LayerControl, socket.socket]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    here.setblocking(False)
    return LayerControl(here), there


@contextlib.contextmanager
def meanwhile(does: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=does)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.fixture
def copy() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for a copy, a child of the host agent's."""
    child = subprocess.Popen(["sleep", "600"])
    yield child
    if not is_gone(child):
        child.kill()
    child.wait()


def is_gone(child: subprocess.Popen[bytes]) -> bool:
    return not Path(f"/proc/{child.pid}").exists()  # nor is it a zombie


@pytest.mark.parametrize("asks", ["a request", "a copy"])
def test_who_waits_for_an_answer_hears_that_the_connection_was_closed(asks: str) -> None:
    async def scene() -> None:
        control, there = pair()
        with there:
            waits = asyncio.create_task(
                control.abort() if asks == "a request" else _copied(control)
            )
            for _ in range(5):
                await asyncio.sleep(0)
            assert control._awaited
            control.close()
            with pytest.raises(CopperError) as raised:
                await waits
            assert not isinstance(raised.value, TimedOut)
            assert control._socket.fileno() == -1

    asyncio.run(scene())


async def _copied(control: LayerControl) -> None:
    await control.copied()


def test_a_seed_of_a_qemu_that_ended_before_it_answered_is_ended(
    tmp_path: Path, copy: subprocess.Popen[bytes]
) -> None:
    async def scene() -> None:
        control, qemu = pair()

        def serve() -> None:
            verb, (connection,) = heard(qemu)
            assert verb == SEED
            with socket.socket(fileno=connection) as kept:
                qemu.close()  # it was copied, and killed
                assert heard(kept) == (STAT, [])
                answer(kept, pages=copy.pid)
                assert heard(kept)[0] == 0

        seed = Seed(tmp_path, SHAPE, NEEDS)
        with meanwhile(serve):
            with pytest.raises(CopperError, match="ended while"):
                await seed.make(control)
            assert seed.pid == copy.pid
            seed.close()
            await asyncio.wait_for(seed.gone(), 60)
        control.close()
        assert is_gone(copy)
        assert not seed.folder.exists()

    asyncio.run(scene())


@pytest.mark.parametrize("refuses", [True, False], ids=["it cannot be copied", "it ended"])
def test_a_qemu_that_is_not_copied_leaves_no_seed(tmp_path: Path, refuses: bool) -> None:
    async def scene() -> None:
        control, qemu = pair()

        def serve() -> None:
            with qemu:
                _, fds = heard(qemu)
                for fd in fds:
                    os.close(fd)
                if refuses:
                    answer(qemu, error=95)

        seed = Seed(tmp_path, SHAPE, NEEDS)
        with meanwhile(serve), pytest.raises(CopperError):
            await seed.make(control)
        assert seed.pid == -1
        seed.close()
        await asyncio.wait_for(seed.gone(), 60)
        control.close()
        assert not seed.folder.exists()

    asyncio.run(scene())


@pytest.mark.parametrize("was_copied", [True, False])
def test_a_copy_of_a_seed_that_ended_before_it_answered_is_ended(
    tmp_path: Path, copy: subprocess.Popen[bytes], was_copied: bool
) -> None:
    async def scene() -> None:
        seed = Seed(tmp_path, SHAPE, NEEDS)

        def serve() -> None:
            verb, fds = heard(seed._there)
            assert verb == FORK
            layers = socket.socket(fileno=os.dup(fds[LAYERS]))
            for fd in fds:
                os.close(fd)
            seed._there.close()
            with layers:
                if was_copied:
                    answer(layers, pages=copy.pid)

        tap = os.open("/dev/null", os.O_RDWR)
        with meanwhile(serve), pytest.raises(CopperError, match="ended while"):
            await QemuProcess.fork(from_environment({"COPPER_RUN_DIR": str(tmp_path)}), seed, tap)
        os.close(tap)
        seed.close()
        assert is_gone(copy) == was_copied
        assert list((tmp_path / "q").iterdir()) == []

    asyncio.run(scene())
