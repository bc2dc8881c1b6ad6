"""The server of names as a process: its zone, who tells it of names, and where it answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from copper.client import Client
from copper.dns.answers import Answers
from copper.dns.feed import Feed
from copper.dns.forward import Forwarder
from copper.dns.lend import borrowing
from copper.dns.names import Zone
from copper.dns.options import Options, Sockets
from copper.dns.server import Listener

log = logging.getLogger(__name__)

# The thread that reads changes waits so long for its turn, some times for each of them, while many ask.
SWITCH_S = 0.00005


class Names:
    """All listeners over one zone."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._zone = Zone(options.domain)
        self._listening: set[Answers] = set()
        self._ready = False

    @contextlib.asynccontextmanager
    async def listening(self, sockets: Sockets) -> AsyncIterator[None]:
        """Answers everybody there, with public addresses."""
        async with self._listening_to("", sockets):
            yield

    @contextlib.asynccontextmanager
    async def inside(
        self, cluster: str, udp: socket.socket, tcp: socket.socket
    ) -> AsyncIterator[None]:
        """Answers there as inside a virtual cluster, whose VMs have their private addresses."""
        async with self._listening_to(cluster, Sockets(udp, tcp)):
            log.info("names are answered inside %s", cluster)
            yield

    @contextlib.asynccontextmanager
    async def _listening_to(self, view: str, sockets: Sockets) -> AsyncIterator[None]:
        other = self._options.forward
        # one for each: who has many questions under way takes nobody else's place
        forwarder = Forwarder(other) if other else None
        answers = Answers(self._zone, view, [sockets.at.host], other.host if other else "")
        answers.ready = self._ready
        self._listening.add(answers)
        try:
            async with Listener(answers, forwarder).serving(sockets.udp, sockets.tcp):
                yield
        finally:
            self._listening.discard(answers)

    @contextlib.contextmanager
    def following(self, client: Client) -> Any:
        """Learns names from a controller, in the order in which they change."""
        loop = asyncio.get_running_loop()
        waiting: deque[Any] = deque()

        def tell(what: Any) -> None:
            waiting.append(what)
            if len(waiting) == 1:
                with contextlib.suppress(RuntimeError):  # it ends
                    loop.call_soon_threadsafe(take)

        def take() -> None:
            while waiting:
                told = waiting[0]
                try:
                    self._take(told)
                except Exception:  # a newer controller may say what is not known here
                    log.exception("a change was not understood")
                waiting.popleft()

        feed = Feed(client, lambda clusters, vms: tell((clusters, vms)), tell)
        feed.start()
        try:
            yield
        finally:
            feed.end()

    def _take(self, told: Any) -> None:
        if isinstance(told, tuple):
            self._zone.replace(*told)
            self._ready = True
            for answers in self._listening:
                answers.ready = True
            log.info("names are known")
        elif told["change"] == "deleted":
            self._zone.delete(told["kind"], told["name"])
        else:
            self._zone.put(told["kind"], told["body"])


async def serve(
    options: Options,
    client: Client,
    sockets: Sockets | None,
    lending: socket.socket | None,
    end: asyncio.Event,
) -> None:
    """Answers until `end` is set: on `sockets`, and on those that are lent at `lending`."""
    sys.setswitchinterval(SWITCH_S)
    names = Names(options)
    async with contextlib.AsyncExitStack() as open_:
        if sockets is not None:
            await open_.enter_async_context(names.listening(sockets))
            log.info("names below %s are answered at %s", options.domain, sockets.at)
        if lending is not None:
            await open_.enter_async_context(borrowing(lending, names.inside))
        open_.enter_context(names.following(client))
        await end.wait()
