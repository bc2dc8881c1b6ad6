"""Who answers names in virtual clusters' networks: sockets at each one's gateway, lent to the server of names.

The sockets are the agent's, so questions wait in them while that server is started anew. What makes them and looks at
them is for the networks' thread, within the namespace; the rest is for the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from copper.dns.lend import Served, lent
from copper.net.addresses import GATEWAY, GATEWAY6

log = logging.getLogger(__name__)

PORT = 53
WAITING = 128  # connections that nobody has taken yet
AWAY_S = 30.0  # a server of names that is being started is not missing: questions wait for it
_UDP_BOUND, _TCP_LISTENS = "07", "0A"  # as /proc/net has states
Pair = tuple[socket.socket, socket.socket]


def open_pairs() -> list[Pair]:
    """UDP and TCP at the gateway's addresses, in this thread's namespace. Raises OSError."""
    pairs = [_open(GATEWAY)]
    with contextlib.suppress(OSError):  # a host may have no IPv6
        pairs.append(_open(GATEWAY6))
    return pairs


def _open(host: str) -> Pair:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as closing:
        udp = closing.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        tcp = closing.enter_context(socket.socket(family, socket.SOCK_STREAM))
        for sock in (udp, tcp):
            # a server of names that outlives its agent has the former ones for a moment longer
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setblocking(False)
            sock.bind((host, PORT))
        tcp.listen(WAITING)
        closing.pop_all()
    return udp, tcp


def _close(pairs: list[Pair]) -> None:
    for pair in pairs:
        for sock in pair:
            sock.close()


def is_bound() -> bool:
    """Whether somebody has both sockets of IPv4, in this thread's namespace: the kernel says so."""
    number = int.from_bytes(ipaddress.IPv4Address(GATEWAY).packed, "little")
    return all(
        any(line.split()[1::2][:2] == [f"{number:08X}:{PORT:04X}", state] for line in _lines(name))
        for name, state in (("udp", _UDP_BOUND), ("tcp", _TCP_LISTENS))
    )


def _lines(name: str) -> Iterator[str]:
    with Path(f"/proc/thread-self/net/{name}").open() as file:
        next(file)  # what the columns are
        yield from file


class Resolvers:
    """By virtual cluster, what is lent to the server of names at a path; without one, nobody answers."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lending: dict[str, asyncio.Task[None]] = {}
        self._served: dict[str, list[Served]] = {}

    @property
    def answer(self) -> bool:
        """Whether names are to be answered at all."""
        return self._path is not None

    def begin(self, cluster: str, pairs: list[Pair]) -> None:
        """Has these sockets answer as inside the virtual cluster, until `end`, which closes them."""
        if self._path is None or not pairs:
            return
        self.end(cluster)
        work = self._lend(self._path, cluster, pairs)
        task = self._lending[cluster] = asyncio.create_task(work, name=f"names in {cluster}")
        task.add_done_callback(lambda _: _close(pairs))

    async def _lend(self, path: Path, cluster: str, pairs: list[Pair]) -> None:
        async with contextlib.AsyncExitStack() as open_:
            self._served[cluster] = [
                await open_.enter_async_context(lent(path, cluster, *pair)) for pair in pairs
            ]
            await asyncio.Event().wait()  # until it is cancelled

    def end(self, cluster: str) -> None:
        """Nobody answers there from now on; twice has one effect."""
        self._served.pop(cluster, None)
        if (task := self._lending.pop(cluster, None)) is not None:
            task.cancel()

    def close(self) -> None:
        """Ends all."""
        for cluster in list(self._lending):
            self.end(cluster)

    def is_missed(self, cluster: str) -> bool:
        """Whether the server of names does not have what is lent for a virtual cluster, and has not for long."""
        now = time.monotonic()
        return any(
            not one.is_set() and now - one.since > AWAY_S for one in self._served.get(cluster, [])
        )
