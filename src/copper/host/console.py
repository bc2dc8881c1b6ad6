"""A VM's serial line: always read, kept on disk up to a limit, shown to whoever attaches."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

LOG_BYTES = 1 << 20
_LATELY = 1 << 14  # what a newcomer is shown first
_BEHIND = 1 << 20  # a viewer this far behind loses what is oldest


class Console:
    """One VM's serial line. `log` keeps the last mebibyte, in two files."""

    def __init__(self, connection: socket.socket, log: Path) -> None:
        self._socket = connection
        self._log = log
        self._file = log.open("ab")
        self._lately = collections.deque[bytes]()
        self._viewers: set[_Viewer] = set()
        self._task: asyncio.Task[None] | None = asyncio.create_task(self._read())

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(self._socket, 1 << 16):
                self._keep(data)
                for viewer in self._viewers:
                    viewer.feed(data)
        for viewer in self._viewers:
            viewer.feed(b"")

    def _keep(self, data: bytes) -> None:
        self._lately.append(data)
        while sum(map(len, self._lately)) - len(self._lately[0]) > _LATELY:
            self._lately.popleft()
        try:
            if self._file.tell() + len(data) > LOG_BYTES // 2:
                self._file.close()
                self._log.replace(_older(self._log))
                self._file = self._log.open("ab")
            self._file.write(data)
            self._file.flush()
        except OSError:
            return  # a full disk costs the log, not the VM

    async def write(self, data: bytes) -> None:
        """Types on the line. Raises OSError when the VM is gone."""
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    @contextlib.contextmanager
    def attach(self) -> Iterator[AsyncIterator[bytes]]:
        """What was shown lately, then what comes; ends with the VM."""
        viewer = _Viewer()
        viewer.feed(b"".join(self._lately)[-_LATELY:] or b"\r")
        self._viewers.add(viewer)
        if self._task is None or self._task.done():
            viewer.feed(b"")
        try:
            yield viewer.chunks()
        finally:
            self._viewers.discard(viewer)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._socket.close()
        self._file.close()


class _Viewer:
    def __init__(self) -> None:
        self._chunks: collections.deque[bytes] = collections.deque()
        self._there = asyncio.Event()

    def feed(self, data: bytes) -> None:
        self._chunks.append(data)
        while sum(map(len, self._chunks)) > _BEHIND:
            self._chunks.popleft()
        self._there.set()

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            while self._chunks:
                data = self._chunks.popleft()
                if not data:
                    return
                yield data
            self._there.clear()
            await self._there.wait()


def _older(log: Path) -> Path:
    return log.with_name(log.name + ".1")


def read_log(log: Path) -> bytes:
    """All that is kept of a serial line."""
    text = b""
    for path in (_older(log), log):
        with contextlib.suppress(FileNotFoundError):
            text += path.read_bytes()
    return text


def remove_log(log: Path) -> None:
    log.unlink(missing_ok=True)
    _older(log).unlink(missing_ok=True)
