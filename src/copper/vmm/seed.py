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

from copper.model.errors import CopperError
from copper.model.machine import Needs, Shape
from copper.vmm.layers import LayerControl
from copper.wire.undo import whole


def new_unit(run_dir: Path) -> Path:
    """The folder of a QEMU that is about to be: its name is the unit, by which its process is found."""
    folder = run_dir / "q" / secrets.token_hex(6)
    folder.mkdir(parents=True)
    return folder


class Seed:
    """Made by `make` of a QEMU whose processors are stopped; `close` ends it."""

    def __init__(
        self, folder: Path, shape: Shape, needs: Needs, control: LayerControl, pid: int
    ) -> None:
        self.shape, self.needs = shape, needs
        self.folder = folder
        self.pid = pid
        self._control = control
        self._pidfd = os.pidfd_open(pid)
        self._gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    @property
    def unit(self) -> str:
        return self.folder.name

    @classmethod
    async def make(cls, run_dir: Path, of: LayerControl, shape: Shape, needs: Needs) -> Seed:
        """Raises CopperError: this QEMU cannot be copied, and runs on as it was."""
        folder = new_unit(run_dir)
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here.setblocking(False)
        control = LayerControl(here)
        made: list[Seed] = []

        async def make() -> None:
            pid = await of.make_seed(there.fileno(), folder.name)
            made.append(cls(folder, shape, needs, control, pid))

        try:
            with there:
                await whole(make())
            return made[0]
        except BaseException as error:
            if made:  # nobody waits for it any more
                made[0].close()
            else:
                control.close()
                folder.rmdir()
            if isinstance(error, ProcessLookupError):
                raise CopperError("QEMU's copy ended at once") from error
            raise

    async def fork(self, fds: Sequence[int], unit: str) -> int:
        """A copy of the VM's QEMU with these files for its own (layers.h: enum role); its process's number."""
        return await self._control.fork(fds, unit)

    def close(self) -> None:
        """Ends it; `gone` says when it is."""
        self._control.close()
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def gone(self) -> None:
        await self._gone.wait()

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        # the child of whoever started what it is a copy of
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._pidfd = -1
        with contextlib.suppress(FileNotFoundError):
            self.folder.rmdir()
        self._gone.set()
