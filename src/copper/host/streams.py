"""Streams of a guest's channel: a command that runs, a file that comes or goes, with their credits."""

from __future__ import annotations

import asyncio
import errno as errnos
import os
from collections import deque
from types import TracebackType
from typing import Any, Protocol, Self

from copper.model.errors import BadInput, CopperError, NoRoom, NotFound, Refused
from copper.wire import frames
from copper.wire.messages import Exit, Started

CREDIT_OUT = 32_768  # bytes that may be sent before the guest gives more
CREDIT_IN = 262_144  # bytes that the guest may send, a channel, before more is given
CREDIT_STEP = 65_536  # more is given in steps of at least this
PIECES_MOST = 256  # of data, kept apart until they are read

_ERRORS: dict[int, type[CopperError]] = {
    errnos.ENOENT: NotFound,
    errnos.EACCES: Refused,
    errnos.EPERM: Refused,
    errnos.EROFS: Refused,
    errnos.ENOSPC: NoRoom,
    errnos.EDQUOT: NoRoom,
    errnos.EAGAIN: NoRoom,
    errnos.EISDIR: BadInput,
    errnos.ENOTDIR: BadInput,
    errnos.EINVAL: BadInput,
    errnos.ENAMETOOLONG: BadInput,
}


def error_of(exit: Exit, what: str) -> CopperError:
    """The error that a stream ended with, of the class that its errno has in the tree."""
    why = exit.message or os.strerror(exit.errno)
    return _ERRORS.get(exit.errno, CopperError)(f"{what}: {why}")


class Outlet(Protocol):
    """Where a stream's frames go: the port that it belongs to."""

    def send(self, message: dict[str, Any]) -> None: ...

    def send_data(self, stream: int, data: bytes, *, end: bool = False) -> None: ...

    async def room(self) -> None: ...

    def forget(self, stream: int) -> None: ...


class Stream:
    """A command in a guest, or a file on its way; made by GuestPort, closed by its user.

    Every method raises the CopperError that ended the session, if that is how the stream ended.
    """

    def __init__(self, outlet: Outlet, number: int) -> None:
        self.number = number
        self._outlet = outlet
        self._started: asyncio.Future[Started | None] = asyncio.get_running_loop().create_future()
        self._exit: Exit | None = None
        self._error: CopperError | None = None
        self._changed = asyncio.Event()
        self._arrived: deque[tuple[int, bytearray]] = deque()
        self._may_send = CREDIT_OUT
        self._may_come = [CREDIT_IN] * 3
        self._passed_on = [0] * 3

    @property
    def pid(self) -> int:
        """The command's process id in the guest; 0 if it never ran."""
        started = self._started.result() if self._started.done() else None
        return started.pid if started else 0

    async def started(self) -> Started | None:
        """Waits until the command runs or the file is open; None: it does not, see `wait`."""
        started = await asyncio.shield(self._started)
        self._check()
        return started

    async def read(self) -> tuple[int, bytes] | None:
        """The next (channel, bytes) of the guest's; None when all was read and the stream is over."""
        while not self._arrived:
            if self._exit is not None:
                return None
            self._check()
            await self._change()
        channel, data = self._arrived.popleft()
        self._passed_on[channel] += len(data)
        if self._passed_on[channel] >= CREDIT_STEP and self._exit is None:
            credit, self._passed_on[channel] = self._passed_on[channel], 0
            self._may_come[channel] += credit
            self._send("credit", channel=channel, bytes=credit)
        return channel, bytes(data)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, bytes]:
        piece = await self.read()
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def write(self, data: bytes) -> None:
        """To the command's standard input; waits for credit. Without effect once it is over."""
        at = 0
        while at < len(data) and self._exit is None:
            self._check()
            await self._outlet.room()
            part = data[at : at + min(self._may_send, frames.PAYLOAD_MOST)]
            if not part:
                await self._change()
            elif self._exit is None:
                self._check()
                self._may_send -= len(part)
                at += len(part)
                self._outlet.send_data(self.number, part)

    def eof(self) -> None:
        """Ends the command's standard input, or the file."""
        if not self.over:
            self._outlet.send_data(self.number, b"", end=True)

    def signal(self, number: int) -> None:
        """To the command's process group."""
        self._send("signal", signal=number)

    def resize(self, rows: int, cols: int) -> None:
        """Of the command's terminal, in characters."""
        self._send("resize", rows=rows, cols=cols)

    async def wait(self) -> Exit:
        """How it ended. Somebody must read meanwhile: a guest stops at CREDIT_IN unread bytes."""
        while self._exit is None:
            self._check()
            await self._change()
        return self._exit

    async def communicate(self, data: bytes = b"") -> tuple[bytes, bytes, Exit]:
        """Writes data and eof, reads all: (stdout, stderr, exit). Holds all of it in memory."""
        came: dict[int, list[bytes]] = {frames.STDOUT: [], frames.STDERR: []}

        async def feed() -> None:
            await self.write(data)
            self.eof()

        feeding = asyncio.ensure_future(feed())
        try:
            async for channel, part in self:
                came[channel].append(part)
            await feeding
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
        return b"".join(came[frames.STDOUT]), b"".join(came[frames.STDERR]), await self.wait()

    def close(self) -> None:
        """The reader is gone: SIGHUP to a command that still runs, half a file is dropped."""
        if not self.over:
            self._send("close")
            self.fail(CopperError("the stream was closed"))
        self._outlet.forget(self.number)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def over(self) -> bool:
        """Whether it ended, one way or the other."""
        return self._exit is not None or self._error is not None

    # what the port tells

    def take_data(self, channel: int, data: bytes) -> None:
        """Data of the guest's; one that sends more than it has credit for loses the stream."""
        if self.over or channel == frames.STDIN:
            return
        self._may_come[channel] -= len(data)
        if self._may_come[channel] < 0:
            self._send("close")
            self._outlet.forget(self.number)
            self.fail(CopperError("the guest sent more than it was given credit for"))
        elif data:
            self._keep(channel, data)
            self._changed.set()

    def _keep(self, channel: int, data: bytes) -> None:
        """A guest that sends single bytes must not cost a hundred for each: pieces are joined."""
        last = self._arrived[-1] if self._arrived else None
        if len(self._arrived) > PIECES_MOST:  # and the order of the two outputs is given up
            last = next((piece for piece in reversed(self._arrived) if piece[0] == channel), last)
        if (
            last is not None
            and last[0] == channel
            and (len(last[1]) < frames.PAYLOAD_MOST or len(self._arrived) > PIECES_MOST)
        ):
            last[1].extend(data)
        else:
            self._arrived.append((channel, bytearray(data)))

    def take_started(self, message: Started) -> None:
        if not self._started.done():
            self._started.set_result(message)

    def take_credit(self, channel: int, count: int) -> None:
        if channel == frames.STDIN:
            self._may_send += count
            self._changed.set()

    def take_exit(self, message: Exit) -> None:
        if not self.over:
            self._exit = message
        self._end()

    def fail(self, error: CopperError) -> None:
        """The session is over: whoever waits here gets this error."""
        if not self.over:
            self._error = error
        self._end()

    def _end(self) -> None:
        if not self._started.done():
            self._started.set_result(None)
        self._changed.set()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _send(self, type: str, **members: Any) -> None:
        if not self.over:
            self._outlet.send({"type": type, "stream": self.number, **members})


class PulledFile(Stream):
    """A file that comes out of a guest: `size` in bytes, `mode`, `mtime_ns`, and its bytes."""

    path = ""
    size = mode = mtime_ns = 0

    def take_opening(self, path: str, started: Started | None) -> None:
        """What it is. Raises NotFound, Refused, BadInput (no regular file), CopperError."""
        self.path = path
        if started is None:
            assert self._exit is not None
            raise error_of(self._exit, path)
        self.size, self.mode = started.size, started.mode & 0o7777
        self.mtime_ns = started.mtime_ns

    async def chunk(self) -> bytes:
        """The next bytes; none at the end. Raises CopperError when the guest cannot read on."""
        piece = await self.read()
        if piece is not None:
            return piece[1]
        exit = await self.wait()
        if exit.errno:
            raise error_of(exit, self.path)
        return b""
