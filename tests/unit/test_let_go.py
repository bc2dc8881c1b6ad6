"""What a VM had in the host agent goes with it at once, not when all garbage is looked at."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path

from copper.host.console import Console
from copper.host.guest_port import GuestPort
from copper.vmm.qmp import Monitor


@contextlib.contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def a_pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, theirs


async def test_a_guests_port() -> None:
    ours, theirs = a_pair()
    with no_collector(), theirs:
        port = GuestPort(ours)
        await asyncio.sleep(0)
        await port.close()
        gone = weakref.ref(port)
        del port
        assert gone() is None


async def test_a_serial_line(tmp_path: Path) -> None:
    ours, theirs = a_pair()
    with no_collector(), theirs:
        console = Console(ours, tmp_path / "log")
        await asyncio.sleep(0)
        await console.close()
        gone = weakref.ref(console)
        del console
        await asyncio.sleep(0)  # the loop knows its last task until then
        assert gone() is None


async def test_a_monitor_whose_qemu_has_ended() -> None:
    ours, theirs = a_pair()
    with no_collector():
        monitor = Monitor()
        await monitor.take_over(ours)
        theirs.close()
        await asyncio.sleep(0.05)
        await monitor.close()
        gone = weakref.ref(monitor)
        del monitor
        await asyncio.sleep(0)  # the loop knows its last task until then
        assert gone() is None
