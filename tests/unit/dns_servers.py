"""A server of names over real sockets on loopback, and who asks it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import dns.asyncquery
import dns.message

from copper.dns.answers import Answers
from copper.dns.forward import Forwarder
from copper.dns.options import Address, bound
from copper.dns.server import Listener
from tests.unit.zones import asked, listener

ANYWHERE = Address("127.0.0.1", 0)
WAIT_S = 60.0


@contextlib.asynccontextmanager
async def served(
    answers: Answers | None = None, forwarder: Forwarder | None = None
) -> AsyncIterator[int]:
    """A server's port."""
    with bound(ANYWHERE) as sockets:
        made = answers or listener(forwards=forwarder is not None)
        async with Listener(made, forwarder).serving(sockets.udp, sockets.tcp):
            yield sockets.at.port


async def ask(port: int, name: str, kind: str = "A", *, tcp: bool = False) -> dns.message.Message:
    by = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    return await by(asked(name, kind), "127.0.0.1", port=port, timeout=WAIT_S)


async def until(is_so: Callable[[], bool]) -> None:
    """Lets all others go on until it is so."""
    async with asyncio.timeout(WAIT_S):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0)


def descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
