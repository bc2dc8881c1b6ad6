"""The other end of native/layers.c: guest memory of a running QEMU as layers.

A layer is a sealed file in memory. It lives as long as a process maps it or a host agent holds it, so a
crash leaves nothing behind.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import dataclasses
import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from copper.model.errors import CopperError, NoRoom, TimedOut
from copper.wire import trace
from copper.wire.undo import whole

PAGE = 4096
LAY, PRECOPY, SAVE, ABORT, STAT, TAP, SEED, FORK, COLLAPSE = range(1, 10)
_NAMES = ("", "lay", "precopy", "save", "abort", "stat", "tap", "seed", "fork", "collapse")
RESET, SKIP_ZERO, FLATTEN, MAPPINGS = 1, 2, 4, 8
MOST_FDS = 64
MOST_EXTENTS = 8000  # of 24 bytes each, in one request's payload
_REQUEST = struct.Struct("=IIQQ")
_REPLY = struct.Struct("=iI7Q")
_EXTENT = struct.Struct("=QQQ")
_LAYER = re.compile(r"/memfd:copper-layer-(\S+)")
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclasses.dataclass(frozen=True)
class LayerReply:
    """What a request did: pages of 4096 bytes, extents, nanoseconds; `tracked`: only changes were copied."""

    pages: int
    extents: int
    scan_ns: int
    copy_ns: int
    map_ns: int
    mappings: int
    tracked: bool


def new_layer(layer_id: str) -> int:
    """An empty layer: a descriptor of a file in memory. The caller closes it."""
    return os.memfd_create(f"copper-layer-{layer_id}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def layer_of(link: str) -> str | None:
    """The id of the layer that a process has open or mapped, as /proc tells the file; None for any other file."""
    match = _LAYER.match(link)
    return match[1] if match else None


def seal(fd: int) -> None:
    """From now on nobody changes this layer, whoever has a descriptor of it."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)


def is_sealed(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE != 0


class LayerControl:
    """One connection to the control thread of one QEMU. A request at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._turn = asyncio.Lock()
        self._awaited = self._closed = False

    @classmethod
    def connect(cls, path: Path) -> LayerControl:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        connection.setblocking(False)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            raise
        return cls(connection)

    def close(self) -> None:
        """Whoever waits for an answer hears at once that there is none."""
        self._closed = True
        if self._awaited:  # a loop forgets a descriptor that is closed, and him who waits at it
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        else:
            self._socket.close()

    async def lay(self, fds: Sequence[int], *, reset: bool) -> None:
        """Lays layers over guest memory, lowest first; `reset` drops all that is there before."""
        for start in range(0, max(len(fds), 1), MOST_FDS):
            batch = fds[start : start + MOST_FDS]
            await self._ask(LAY, RESET if reset and start == 0 else 0, fds=batch)

    async def precopy(self, fd: int, extents: Sequence[tuple[int, int]]) -> LayerReply:
        """Copies these (offset, bytes), and the VM's own pages where changes can be tracked."""
        if len(extents) > MOST_EXTENTS:
            raise CopperError(f"{len(extents)} extents are too many to flatten at once")
        payload = b"".join(_EXTENT.pack(at, length, 0) for at, length in extents)
        return await self._ask(PRECOPY, 0, fds=[fd], payload=payload)

    async def save(self, fd: int, *, flags: int, most_bytes: int) -> LayerReply:
        """Writes own pages into the layer and lays it under the VM. Raises NoRoom, nothing changed."""
        return await self._ask(SAVE, flags, fds=[fd], argument=most_bytes // PAGE)

    async def take_tap(self, fd: int) -> None:
        """Has this QEMU's network card on another tap from now on; before a guest runs."""
        await self._ask(TAP, 0, fds=[fd])

    async def abort(self) -> None:
        await self._ask(ABORT, 0)

    async def stat(self, *, mappings: bool = False) -> LayerReply:
        """Own pages, and mappings if asked for; `extents` is the number of layers in use."""
        return await self._ask(STAT, MAPPINGS if mappings else 0)

    async def collapse(self, offset: int) -> tuple[int, int]:
        """Huge pages for what is wholly this QEMU's own, from 0 or where the last call stopped, for a millisecond.

        Returns pages of 4096 bytes that were put together, and where to go on, 0 at the end.
        """
        done = await self._ask(COLLAPSE, 0, argument=offset)
        return done.pages, done.extents

    async def make_seed(self, connection: int, unit: str) -> int:
        """Copies this QEMU, stopped, into a process that waits at `connection` for `fork`; its number."""
        return (await self._ask(SEED, 0, fds=[connection], payload=unit.encode())).pages

    async def who(self) -> int:
        """Asked of a seed: its process's number."""
        return (await self._ask(STAT, 0)).pages

    async def fork(self, fds: Sequence[int], unit: str) -> int:
        """Asked of a seed: a copy with these files (layers.h: enum role) and this unit's name; its process's number."""
        return (await self._ask(FORK, 0, fds=fds, payload=unit.encode())).pages

    async def copied(self) -> int:
        """A new copy of a QEMU says that it is there; its process's number. Raises CopperError, TimedOut."""
        return (await self._answer()).pages

    async def _ask(
        self,
        verb: int,
        flags: int,
        *,
        fds: Sequence[int] = (),
        argument: int = 0,
        payload: bytes = b"",
    ) -> LayerReply:
        message = _REQUEST.pack(verb, flags, argument, len(payload)) + payload
        ancillary = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
        )
        async with self._turn:
            with trace.span(_NAMES[verb], "memory"):
                try:
                    self._socket.sendmsg([message], ancillary)
                except OSError as error:
                    raise CopperError(
                        f"QEMU's memory cannot be reached: {error.strerror}"
                    ) from error
                # an answer that nobody reads would be taken for the next one's
                return await whole(self._answer())

    async def _answer(self) -> LayerReply:
        loop = asyncio.get_running_loop()
        self._awaited = True
        try:
            raw = await asyncio.wait_for(loop.sock_recv(self._socket, _REPLY.size), 30)
        except TimeoutError:
            self._closed = True  # a late answer must not be taken for the next one's
            raise TimedOut("QEMU's memory did not answer within 30 s") from None
        except OSError as error:
            raise CopperError(f"QEMU's memory cannot be reached: {error.strerror}") from error
        finally:
            self._awaited = False
            if self._closed:
                self._socket.close()
        if len(raw) != _REPLY.size:
            raise CopperError("QEMU ended while its memory was asked for")
        code, _, pages, extents, scan, copy, lay, mappings, tracked = _REPLY.unpack(raw)
        if code == errno.ENOSPC:
            raise NoRoom(f"no memory left for an image: it needs {pages * PAGE >> 20} MiB")
        if code:
            raise CopperError(f"guest memory: {os.strerror(code)}")
        return LayerReply(pages, extents, scan, copy, lay, mappings, bool(tracked))
