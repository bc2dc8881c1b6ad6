"""The server of names beside the controller: a process of its own, which is started anew when it ends.

Its sockets are the node's: questions that come while it is started wait in them, and so do hosts that lend it theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator

from copper.dns.lend import lending_socket
from copper.dns.options import Address, Sockets, bound, options_of
from copper.model.errors import Conflict
from copper.model.settings import Settings

log = logging.getLogger(__name__)

AGAIN_S = (0.1, 5.0)  # before it is started anew: at first, and at most
LIVED_S = 10.0  # whoever lived so long may be started at once again
TAKEN_S = 5.0  # before an address that others have is tried again
END_S = 5.0


class NameServer:
    """The process, and where it answers. `at` is None while it does not, and `reason` why."""

    def __init__(self, settings: Settings) -> None:
        """Raises BadInput for settings that are none."""
        self._settings = settings
        self._wanted = options_of(settings).at
        self.at: Address | None = None
        self.reason = "COPPER_DNS is off" if self._wanted is None else "it is being started"
        self._keeping: asyncio.Task[None] | None = None
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Has it run from now on. Where the address is taken, it answers inside virtual clusters alone."""
        if self._wanted is not None:
            begun = asyncio.Event()
            self._keeping = asyncio.create_task(self._keep(self._wanted, begun))
            await begun.wait()

    async def stop(self) -> None:
        """It is gone when this returns; twice has one effect."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    async def _keep(self, wanted: Address, begun: asyncio.Event) -> None:
        said = False
        with lending_socket(self._settings.dns_socket) as lending:
            while True:
                try:
                    with bound(wanted) as sockets:
                        self.at, self.reason = sockets.at, ""
                        begun.set()
                        try:
                            await self._keep_process(lending, sockets)
                        finally:
                            self.at = None
                except Conflict as error:
                    self.reason = error.message
                    if not said:
                        log.warning("%s", error)
                    said = True
                begun.set()
                await self._keep_inside(lending, wanted)

    async def _keep_inside(self, lending: socket.socket, wanted: Address) -> None:
        """Until the address that others have is free."""
        keeping = asyncio.create_task(self._keep_process(lending, None))
        try:
            while True:
                await asyncio.sleep(TAKEN_S)
                with contextlib.suppress(Conflict), bound(wanted):
                    return
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _keep_process(self, lending: socket.socket, sockets: Sockets | None) -> None:
        loop = asyncio.get_running_loop()
        pause_s = AGAIN_S[0]
        while True:
            began = loop.time()
            async with self._started(lending, sockets) as process:
                status = await process.wait()
            if loop.time() - began > LIVED_S:
                pause_s = AGAIN_S[0]
            log.warning("the server of names ended (%s) and is started anew", status)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, AGAIN_S[1])

    @contextlib.asynccontextmanager
    async def _started(
        self, lending: socket.socket, sockets: Sockets | None
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        pair = (sockets.udp.fileno(), sockets.tcp.fileno()) if sockets is not None else ()
        fds = (lending.fileno(), *pair)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "copper.dns", *map(str, fds)),
            stdin=subprocess.PIPE,  # its end is how it knows of this process's end
            stdout=subprocess.DEVNULL,
            pass_fds=fds,
            cwd="/",
            env={**os.environ, **self._environment()},
            start_new_session=True,
        )
        self.process = process
        try:
            yield process
        finally:
            self.process = None
            await asyncio.shield(_ended(process))

    def _environment(self) -> dict[str, str]:
        """What it must know to follow this Copper, however its settings were given."""
        settings = self._settings
        return {
            "COPPER_STATE_DIR": str(settings.state_dir),
            "COPPER_RUN_DIR": str(settings.run_dir),
            "COPPER_DNS": settings.dns,
            "COPPER_DNS_FORWARD": settings.dns_forward,
            "COPPER_DOMAIN": settings.domain,
        }


async def _ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(END_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
