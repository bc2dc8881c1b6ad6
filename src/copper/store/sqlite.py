"""The store of one machine, in SQLite: what is asked for at the same time is written together.

Requests queue up while a batch is written; then all that wait are the next batch. A batch is one transaction, each
request of it succeeds or fails alone, and is answered when all of it is durable.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from copper.model.errors import CopperError
from copper.store.contract import CLOSED, HISTORY, Changes, Entry
from copper.store.database import Reader, Results, Writer
from copper.store.draft import Draft, End, Grant, Position, Request, Step, Write
from copper.store.feed import Feed
from copper.store.leases import Leases

LATEST = 1000  # changes that are in memory too, for watchers that keep up
T = TypeVar("T")
Batch = list[tuple[Request, asyncio.Future[int]]]


class SqliteStore:
    """See `contract.Store`. One thread writes, another reads. `history`: how many changes are kept for watchers."""

    def __init__(self, path: Path, history: int = HISTORY) -> None:
        self._path = path
        self._history = history
        self._writing = concurrent.futures.ThreadPoolExecutor(1, "store-writes")
        self._reading = concurrent.futures.ThreadPoolExecutor(1, "store-reads")
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._feed = Feed(0, 0)
        self._feed.close(CLOSED)  # until there is one
        self._leases = Leases(self._end)
        self._queue: Batch = []
        self._open = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def open(self) -> None:
        """Opens or makes the database. Raises Foreign when a newer Copper wrote it."""
        run = asyncio.get_running_loop().run_in_executor
        self._writer = await run(self._writing, lambda: Writer(self._path, self._history))
        self._reader = await run(self._reading, lambda: Reader(self._path))
        self._leases.follow(dict(await run(self._writing, self._writer.leases)))
        self._feed = Feed(self._writer.revision, min(LATEST, self._history), self._steps)
        self._open = True

    async def get(self, key: str) -> Entry | None:
        return await self._read(lambda reader: reader.get(key))

    async def list(self, prefix: str) -> list[Entry]:
        return await self._read(lambda reader: reader.list(prefix))

    async def revision(self) -> int:
        self._check_open()
        return self._feed.revision

    async def commit(
        self,
        *,
        expect: Mapping[str, int] = {},
        put: Mapping[str, dict[str, Any]] = {},
        delete: Sequence[str] = (),
        lease: int | None = None,
    ) -> int:
        self._check_open()
        if lease is not None:
            self._leases.check(lease)
        return await self._ask(Write.of(expect, put, delete, lease))

    def watch(
        self, prefix: str, after: int | tuple[int, int] | None = None
    ) -> AsyncIterator[Changes]:
        return self._feed.watch(prefix, after)

    async def grant(self, ttl_s: float) -> int:
        self._check_open()
        return await self._ask(Grant(ttl_s))

    async def keep(self, lease: int) -> None:
        self._check_open()
        self._leases.keep(lease)

    async def revoke(self, lease: int) -> None:
        self._check_open()
        await self._ask(End(lease))

    async def close(self) -> None:
        self._open = False
        self._leases.close()
        self._feed.close(CLOSED)
        await self._idle.wait()
        run = asyncio.get_running_loop().run_in_executor
        reader, self._reader = self._reader, None
        writer, self._writer = self._writer, None
        if reader is not None:  # before the writer: who closes last tidies the log up
            await run(self._reading, reader.close)
        if writer is not None:
            await run(self._writing, writer.close)
        self._reading.shutdown()
        self._writing.shutdown()

    def _check_open(self) -> None:
        if not self._open:
            raise CopperError(CLOSED)

    async def _read(self, work: Callable[[Reader], T]) -> T:
        self._check_open()
        reader = self._reader
        assert reader is not None
        return await asyncio.get_running_loop().run_in_executor(self._reading, work, reader)

    async def _steps(self, behind: Position, upto: int, limit: int) -> Sequence[Step] | None:
        return await self._read(lambda reader: reader.steps(behind, upto, limit))

    def _ask(self, request: Request) -> asyncio.Future[int]:
        """Queues a request at once; the future has its result when it is durable."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[int] = loop.create_future()
        self._queue.append((request, answer))
        if self._idle.is_set():
            self._idle.clear()
            loop.call_soon(
                self._next_batch
            )  # with all that is asked for before the loop gets there
        return answer

    def _next_batch(self) -> None:
        if not self._queue:
            self._idle.set()
            return
        assert self._writer is not None
        batch, self._queue = self._queue, []
        requests = [request for request, _ in batch]
        loop = asyncio.get_running_loop()
        written = loop.run_in_executor(self._writing, self._writer.write, requests)
        written.add_done_callback(lambda written: self._answer(batch, written))

    def _answer(
        self,
        batch: Batch,
        written: asyncio.Future[tuple[Results, Draft]],
    ) -> None:
        results: Sequence[int | BaseException]
        try:
            results, draft = written.result()
        except BaseException as error:
            # each its own, since each grows its own traceback
            results = [copy.copy(error) for _ in batch]
        else:
            self._leases.follow(draft.leases)
            self._feed.publish(draft.revision, draft.steps)
        for (_, answer), result in zip(batch, results, strict=True):
            if answer.done():  # who asked has gone
                continue
            if isinstance(result, BaseException):
                answer.set_exception(result)
            else:
                answer.set_result(result)
        # after those who are answered now, and may ask again
        asyncio.get_running_loop().call_soon(self._next_batch)

    def _end(self, lease: int) -> None:
        self._ask(End(lease)).add_done_callback(lambda ended: self._ended(lease, ended))

    def _ended(self, lease: int, ended: asyncio.Future[int]) -> None:
        if ended.exception() is not None and self._open:
            self._leases.try_again(lease)
