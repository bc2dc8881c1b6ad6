"""As many operations as there can be: bare SQLite commits, a controller's core called in process, a node over HTTP.

An operation is the request or the release of a ticket: each is one commit of the store, durable when it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from copper.bench.simulated import IMAGE, some_hosts
from copper.controller.core import Core
from copper.controller.rows import ticket_key
from copper.model.api import NewCluster
from copper.model.tickets import Ticket, TicketRequest
from copper.store.sqlite import SqliteStore

REQUEST = TicketRequest(maxcpus=8)  # eight clones of one processor
PROCESSORS = 1 << 20  # room for all who ask at once
BARE_REVISION = 1 << 40  # no row of Copper's has it
LOOK_EVERY = 16  # commits between two looks at the clock


async def a_row(path: Path) -> Ticket:
    """A ticket as it is written down, of a store that is made in `path` and has the tables of all."""
    async with a_core(path) as (core, vm):
        return await core.request_ticket(vm, REQUEST)


@contextlib.contextmanager
def _bare(path: Path, ticket: Ticket) -> Iterator[Callable[[], None]]:
    """What inserts a ticket's row, alone and durable; all that it inserted is gone at the end."""
    value = json.dumps(ticket.model_dump(mode="json"))
    insert = "INSERT INTO entries (key, value, revision) VALUES (?, ?, ?)"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")

        def commit() -> None:
            db.execute("BEGIN IMMEDIATE")
            db.execute(insert, (ticket_key(str(uuid.uuid4())), value, BARE_REVISION))
            db.execute("COMMIT")

        yield commit
        db.execute("DELETE FROM entries WHERE revision = ?", (BARE_REVISION,))


def bare_commits(path: Path, ticket: Ticket, seconds: float) -> float:
    """One commit after the other in a store's table; how many a second."""
    done = 0
    with _bare(path, ticket) as commit:
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            for _ in range(LOOK_EVERY):
                commit()
                done += 1
        return done / (time.perf_counter() - begin)


async def paced_commits(
    path: Path, ticket: Ticket, per_second: float, seconds: float
) -> list[float]:
    """The same at a steady rate: what each takes, in milliseconds."""
    taken = []
    with _bare(path, ticket) as commit:
        begin = time.perf_counter()
        for number in range(int(per_second * seconds)):
            await asyncio.sleep(begin + number / per_second - time.perf_counter())
            started = time.perf_counter()
            commit()
            taken.append((time.perf_counter() - started) * 1000)
    return taken


@contextlib.asynccontextmanager
async def a_core(path: Path) -> AsyncIterator[tuple[Core, str]]:
    """A controller over a SQLite store and one host with room for all, and the name of a VM that runs there."""
    store = SqliteStore(path)
    await store.open()
    try:
        core = Core(store)
        (host,) = some_hosts(1, PROCESSORS)
        core.hosts.add(host.name, host)
        async with core.working():
            await core.create("root", NewCluster(name="bench", image=IMAGE))
            yield core, (await core.boot("bench")).name
            await core.kill("bench")
            await core.delete("bench")
    finally:
        await store.close()


async def in_process(core: Core, vm: str, tasks: int, seconds: float) -> float:
    """So many tasks ask for a ticket and release it, again and again; operations a second."""
    operations = 0
    begin = time.perf_counter()

    async def one() -> None:
        nonlocal operations
        while time.perf_counter() - begin < seconds:
            ticket = await core.request_ticket(vm, REQUEST)
            await core.release_ticket(ticket.id)
            operations += 2

    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(one())
    return operations / (time.perf_counter() - begin)
