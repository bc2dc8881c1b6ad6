"""More is asked for than there is: some wait, some are refused, nothing leaks, and afterwards all works as before."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2

from copper.model.errors import NoRoom
from copper.model.tickets import TicketRequest
from copper.wire.serve import Listener, serve, unix_socket
from tests.cluster.fakes import WAIT_S, World
from tests.cluster.front import serving

CLIENTS = 300


async def test_two_thousand_tickets_at_once_are_granted_or_refused_and_none_leaks() -> None:
    async with World(room=101) as world:  # of which the master has one
        master = await world.boot()

        async def ask(number: int) -> str | None:
            request = TicketRequest(maxcpus=2, timeout_ms=100 * (number % 3))
            try:
                return (await world.core.request_ticket(master, request)).id
            except NoRoom:
                return None

        answers = await asyncio.gather(*(ask(number) for number in range(2000)))
        granted = [ticket for ticket in answers if ticket]
        assert len(granted) == len(set(granted)) == 100
        assert world.core.tickets.waiting == 0
        assert {t.id for t in world.book.tickets() if t.status == "granted"} == set(granted)
        for ticket in granted:
            await world.core.release_ticket(ticket)
        assert await ask(0)
        await world.core.kill("a")
        world.nothing_is_left()


@contextlib.contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """This process may open so many more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_connections_beyond_the_descriptors_wait_and_the_server_lives(tmp_path: Path) -> None:
    path, end, ready = tmp_path / "s", asyncio.Event(), asyncio.Event()

    async def said() -> None:
        ready.set()

    async with serving() as served:
        with unix_socket(path) as sock:
            listener = Listener(served.access.trusted(served.app), sock)
            server = asyncio.create_task(serve([listener], said, end))
            await ready.wait()
            with few_descriptors(40):
                held = []
                with contextlib.suppress(OSError):  # there are none left for us either
                    for _ in range(CLIENTS):
                        held.append(client := socket.socket(socket.AF_UNIX))
                        client.setblocking(False)
                        with contextlib.suppress(BlockingIOError):
                            client.connect(str(path))
                        await asyncio.sleep(0)
                assert 0 < len(held) < CLIENTS
                await asyncio.sleep(0.1)
                for client in held:
                    client.close()
                transport = httpx2.AsyncHTTPTransport(uds=str(path))
                async with asyncio.timeout(WAIT_S):
                    async with httpx2.AsyncClient(transport=transport) as asking:
                        answer = await asking.get("http://copper/v1/health")
                        assert answer.status_code == 200
            end.set()
            await server
