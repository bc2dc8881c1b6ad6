"""What must be whole is whole, and whoever was cancelled meanwhile learns of it afterwards."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from copper.model.errors import CopperError
from copper.vmm.layers import _REPLY, LayerControl
from copper.wire.undo import undo, whole


class Step:
    """A part of taking back that takes until `go_on` is set."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.is_done = False

    async def run(self) -> None:
        self.begun.set()
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        self.is_done = True


async def test_whoever_is_cancelled_twice_waits_until_all_is_taken_back() -> None:
    step = Step()
    task = asyncio.create_task(undo(step.run()))
    await step.begun.wait()
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    step.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert step.is_done


async def test_what_fails_to_be_taken_back_is_raised() -> None:
    step = Step(CopperError("it hangs on"))
    step.go_on.set()
    with pytest.raises(CopperError, match="it hangs on"):
        await undo(step.run())


async def test_a_time_limit_that_passes_meanwhile_is_still_told() -> None:
    step = Step()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            asyncio.get_running_loop().call_soon(step.go_on.set)
            await undo(step.run())
    assert step.is_done


async def test_what_is_whole_gives_its_result() -> None:
    async def three() -> int:
        await asyncio.sleep(0)
        return 3

    assert await whole(three()) == 3


def a_reply(pages: int) -> bytes:
    return struct.pack(_REPLY.format, *([0, 0, pages] + [0] * 6))


async def test_an_answer_that_nobody_waits_for_any_more_is_not_the_next_ones() -> None:
    """Copies of one QEMU are asked for side by side, and those of a fork that fails are given up."""
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    here.setblocking(False)
    there.setblocking(False)
    control = LayerControl(here)
    with there:
        first = asyncio.create_task(control.stat())
        await loop.sock_recv(there, 4096)
        second = asyncio.create_task(control.stat())
        first.cancel()
        await asyncio.sleep(0)
        there.send(a_reply(1))
        with pytest.raises(asyncio.CancelledError):
            await first
        await loop.sock_recv(there, 4096)
        there.send(a_reply(2))
        assert (await second).pages == 2
        control.close()
