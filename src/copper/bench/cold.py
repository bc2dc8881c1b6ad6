"""A VM that was booted cold and runs on, for programs in it to be asked things beside those in Copper's VMs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from copper.bench.calls import Shell
from copper.bench.peers import Peers, Running
from copper.host import streams

NAME = "the cold-booted VM"
T = TypeVar("T")


class Cold:
    """It is a peer, whose channel this end reads while it waits for an answer, and no longer."""

    def __init__(self, runner: asyncio.Runner, vm: Running) -> None:
        self._runner = runner
        self._vm = vm

    @contextmanager
    def program(self, argv: Sequence[str]) -> Iterator[Shell]:
        """A program in it that answers lines; it gets a hang-up at the end. Raises CopperError."""
        stream = self._runner.run(self._vm.port.exec(argv))
        try:
            yield Shell(NAME, _Lines(self._runner, stream))
        finally:
            self._runner.run(_close(stream))


class _Lines:
    """A stream of the channel as `Shell` has streams of the API."""

    def __init__(self, runner: asyncio.Runner, stream: streams.Stream) -> None:
        self._runner = runner
        self._stream = stream

    def send(self, data: bytes) -> bool:
        self._runner.run(self._stream.write(data[1:]))
        return not self._stream.over

    def receive(self, timeout_s: float | None = None) -> bytes | dict[str, Any]:
        piece = self._runner.run(_within(self._stream.read(), timeout_s))
        if piece is not None:
            channel, data = piece
            return bytes((channel,)) + data
        return dataclasses.asdict(self._runner.run(self._stream.wait()))


@contextmanager
def a_cold_vm(peers: Peers) -> Iterator[Cold]:
    """Boots one and waits until it is quiet; it is gone at the end. Raises CopperError."""
    with asyncio.Runner() as runner:
        undo = contextlib.AsyncExitStack()
        try:
            yield Cold(runner, runner.run(undo.enter_async_context(peers.booted())))
        finally:
            runner.run(undo.aclose())


async def _within(read: Awaitable[T], timeout_s: float | None) -> T:
    async with asyncio.timeout(timeout_s):
        return await read


async def _close(stream: streams.Stream) -> None:
    stream.close()
