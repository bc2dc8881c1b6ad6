"""A seed: a stopped copy of a VM's QEMU that makes copies of itself, each of which is that VM (native/seed.c).

It ends with its connection, so that none outlives the host agent that holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from copper.model.errors import CopperError, TimedOut
from copper.model.machine import Needs, Shape
from copper.vmm.layers import LayerControl, LayerReply
from copper.wire.undo import whole


def new_unit(run_dir: Path) -> Path:
    """The folder of a QEMU that is about to be: its name is the unit, by which its process is found."""
    folder = run_dir / "q" / secrets.token_hex(6)
    folder.mkdir(parents=True)
    return folder


class Seed:
    """A place for it at first; `make` puts a process there, of a QEMU whose processors are stopped. `close` ends it."""

    def __init__(self, run_dir: Path, shape: Shape, needs: Needs) -> None:
        self.shape, self.needs = shape, needs
        self.folder = new_unit(run_dir)
        self.pid = -1
        self._pidfd = -1
        self._gone = asyncio.Event()
        here, self._there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here.setblocking(False)
        self._control = LayerControl(here)

    @property
    def unit(self) -> str:
        return self.folder.name

    async def make(self, of: LayerControl) -> None:
        """Raises CopperError: this QEMU cannot be copied, and runs on as it was; `close` is still to be called."""

        async def make() -> None:
            try:
                with self._there:
                    self._made(await of.make_seed(self._there.fileno(), self.unit))
            except TimedOut:
                raise
            except CopperError:
                # a QEMU that ended just then may have been copied, and nobody else knows of it
                with contextlib.suppress(CopperError):
                    self._made(await self._control.who())
                raise

        try:
            await whole(make())
        except ProcessLookupError as error:
            raise CopperError("QEMU's copy ended at once") from error
        finally:
            if self._pidfd >= 0:
                asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    def _made(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    async def save(self, fd: int, *, most_bytes: int) -> LayerReply:
        """Writes into an empty layer what the VM had of its own, and stands on it. Raises NoRoom, nothing changed."""
        return await self._control.save(fd, flags=0, most_bytes=most_bytes)

    async def fork(self, fds: Sequence[int], unit: str) -> int:
        """A copy of the VM's QEMU with these files for its own (layers.h: enum role); its process's number."""
        return await self._control.fork(fds, unit)

    def close(self) -> None:
        """Ends it; `gone` says when it is."""
        self._there.close()
        self._control.close()
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        else:
            self._leave()

    async def gone(self) -> None:
        await self._gone.wait()

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        # the child of whoever started what it is a copy of
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._pidfd = -1
        self._leave()

    def _leave(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.folder.rmdir()
        self._gone.set()
