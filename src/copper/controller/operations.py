"""Long work on virtual clusters: each has a record from before it begins until a day after it has ended.

It goes on when whoever asked for it goes away, and is ended by a cancel only; who waits for it has its own answer.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic_core import to_jsonable_python

from copper.controller.book import Book, now
from copper.controller.rows import operation_key
from copper.model.api import Problem
from copper.model.errors import Conflict, CopperError, NotFound
from copper.model.operations import Operation, OperationKind, OperationState
from copper.wire.app import unexpected
from copper.wire.problems import to_problem

KEPT_S = 24 * 3600.0
KEPT_MOST = 1000  # ended ones; one whose result is a long list counts for each ten entries of it
PROGRESS_S = 0.5  # how often progress is written down

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # parts done, of how many
Work = Callable[[Progress], Awaitable[Any]]


@dataclasses.dataclass
class Running:
    """An operation under way: `task` ends when all about it is written down, with the work's result or error."""

    operation: Operation
    work: asyncio.Task[Any]
    task: asyncio.Task[Any]
    written: float  # by the monotonic clock, when progress was last written down
    cancelled_by_end: bool = False


class Operations:
    """All operations that are kept. `open` before anything else, when the book is open."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._running: dict[str, Running] = {}
        self._ended: collections.deque[tuple[str, float, int]] = collections.deque()
        self._weight = 0
        self._writing: set[asyncio.Task[int]] = set()

    async def open(self) -> None:
        """Says of those that Copper's end cut off that they failed: what became of them is in the virtual cluster."""
        cut_off: dict[str, Operation] = {}
        for operation in sorted(self._all(), key=lambda one: one.ended or now()):
            if operation.state == "running":
                operation = operation.model_copy(
                    update={
                        "state": "failed",
                        "ended": now(),
                        "problem": _problem(
                            CopperError(
                                "Copper ended while it was at this: it was finished or undone since",
                                advice=f"gc-vc show {operation.cluster} says how it is now",
                            )
                        ),
                    }
                )
                cut_off[operation_key(operation.id)] = operation
            self._remember(operation)
        await self._book.commit(put=cut_off, delete=self._too_many())

    async def close(self) -> None:
        """Ends what is under way, as a cancel would."""
        for running in self._running.values():
            running.cancelled_by_end = True
            running.work.cancel()
        await asyncio.gather(
            *(one.task for one in self._running.values()), *self._writing, return_exceptions=True
        )

    # reading

    def _all(self) -> list[Operation]:
        return self._book.all("operations", Operation)

    def all(self) -> list[Operation]:
        """All, in the order of their ids: the oldest first."""
        return [
            self._running[one.id].operation if one.id in self._running else one
            for one in self._all()
        ]

    def show(self, id: str) -> Operation:
        """Raises NotFound."""
        if (running := self._running.get(id)) is not None:
            return running.operation
        operation = self._book.find(operation_key(id), Operation)
        if operation is None:
            raise NotFound(f"there is no operation {id!r:.60}")
        return operation

    async def wait(self, id: str, timeout_s: float) -> Operation:
        """The operation once it has ended, or as it is after so many seconds."""
        if (running := self._running.get(id)) is not None:
            await asyncio.wait({running.task}, timeout=timeout_s)
        return self.show(id)

    async def cancel(self, id: str) -> Operation:
        """Ends an operation and waits until its work is undone. Raises Conflict when it has ended otherwise."""
        running = self._running.get(id)
        if running is not None:
            running.work.cancel()
            await asyncio.wait({running.task})
        operation = self.show(id)
        if operation.state in ("done", "failed"):
            raise Conflict(f"operation {id} has ended: it is {operation.state}")
        return operation

    # doing

    async def begin(self, kind: OperationKind, cluster: str, owner: str, work: Work) -> Running:
        """Writes down that this begins, and begins it."""
        # by time first: listed in the order in which they came
        id = f"{int(now() * 1000):011x}-{secrets.token_hex(5)}"
        operation = Operation(
            id=id, kind=kind, cluster=cluster, owner=owner, state="running", created=now()
        )
        await self._book.commit(
            expect={operation_key(id): None}, put={operation_key(id): operation}
        )

        def progress(done: int, parts: int) -> None:
            self._progress(id, done, parts)

        async def begun() -> Any:
            return await work(progress)

        working = asyncio.create_task(begun())
        task = asyncio.create_task(self._follow(id, working))
        task.add_done_callback(_was_looked_at)
        running = Running(operation, working, task, time.monotonic())
        self._running[id] = running
        return running

    async def run(self, kind: OperationKind, cluster: str, owner: str, work: Work) -> Any:
        """Begins, and gives the result. Raises what the work raises, Conflict when it was cancelled."""
        running = await self.begin(kind, cluster, owner, work)
        return await asyncio.shield(running.task)

    def _progress(self, id: str, done: int, parts: int) -> None:
        running = self._running.get(id)
        if running is None:
            return
        running.operation = running.operation.model_copy(update={"done": done, "parts": parts})
        key = operation_key(id)
        if time.monotonic() - running.written < PROGRESS_S:
            return
        running.written = time.monotonic()
        try:
            task = self._book.submit(put={key: running.operation})
        except CopperError:
            return  # the one before is still being written
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        task.add_done_callback(_was_looked_at)

    async def _follow(self, id: str, working: asyncio.Task[Any]) -> Any:
        """Waits for the work, and writes down how it ended."""
        await asyncio.wait({working})
        running = self._running[id]
        if working.cancelled():
            why = "Copper was ended" if running.cancelled_by_end else "it was cancelled"
            error: CopperError = Conflict(f"operation {id} did not come to its end: {why}")
            await self._end(running, "cancelled", problem=_problem(error))
            raise error
        failure = working.exception()
        if failure is not None:
            error = failure if isinstance(failure, CopperError) else unexpected(failure)
            if error is not failure:
                log.error("operation %s failed", id, exc_info=failure)
            await self._end(running, "failed", problem=_problem(error))
            raise error
        await self._end(running, "done", result=to_jsonable_python(working.result()))
        return working.result()

    async def _end(self, running: Running, state: OperationState, **how: Any) -> None:
        operation = running.operation
        done = {"done": operation.parts} if state == "done" else {}
        operation = operation.model_copy(update={"state": state, "ended": now(), **done, **how})
        running.operation = operation
        self._remember(operation)
        try:
            await self._book.commit(
                put={operation_key(operation.id): operation}, delete=self._too_many()
            )
        except CopperError as error:
            # it stays as it is shown, until the next start calls it cut off
            log.warning("operation %s is %s, and not written down: %s", operation.id, state, error)
            return
        self._running.pop(operation.id, None)

    # what is kept

    def _remember(self, operation: Operation) -> None:
        weight = _weight(operation)
        self._ended.append((operation.id, operation.ended or now(), weight))
        self._weight += weight

    def _too_many(self) -> list[str]:
        """Forgets the oldest ended ones, never the last; returns their keys, to be deleted."""
        gone = []
        while len(self._ended) > 1:
            id, ended, weight = self._ended[0]
            if self._weight <= KEPT_MOST and now() - ended < KEPT_S:
                break
            self._ended.popleft()
            self._weight -= weight
            self._running.pop(id, None)
            gone.append(operation_key(id))
        return gone

    async def tidy(self) -> None:
        """Forgets those that ended more than a day ago."""
        if gone := self._too_many():
            await self._book.commit(delete=gone)


def _weight(operation: Operation) -> int:
    return 1 + (len(operation.result) // 10 if isinstance(operation.result, list) else 0)


def _problem(error: CopperError) -> Problem:
    return Problem.model_validate(to_problem(error))


def _was_looked_at(task: asyncio.Task[Any]) -> None:
    """Nobody may wait for it: its error is in the operation's record, or in the log."""
    if not task.cancelled():
        task.exception()
