"""The stream of a store's changes: the latest in memory, and the watchers that follow them.

A watcher is a position, and nothing of it is kept here: one that is left leaks nothing, and one that is slow is told.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from copper.model.errors import CopperError, TooOld
from copper.store.contract import Change
from copper.store.draft import END, Position, Step

PART = 1000  # changes that are read from the disk, and given to a watcher, at once

# changes behind a position, until a revision, at most so many; None when some of them are forgotten
Older = Callable[[Position, int, int], Awaitable[Sequence[Step] | None]]


class Feed:
    """The changes up to `revision`, of which the last `limit` are in memory; `older` finds those before."""

    def __init__(self, revision: int, limit: int, older: Older | None = None) -> None:
        self.revision = revision
        self._limit = limit
        self._older = older
        self._latest: collections.deque[Step] = collections.deque()
        self._floor: Position = (revision, END)  # all changes behind it are in memory
        self._news = asyncio.Event()
        self._closed: str | None = None

    def publish(self, revision: int, steps: Sequence[Step]) -> None:
        """These changes are durable, and this is the last revision that is."""
        self.revision = revision
        self._latest.extend(steps)
        while len(self._latest) > self._limit:
            forgotten = self._latest.popleft()
            self._floor = (forgotten.revision, forgotten.number)
        if steps:
            self._wake()

    def close(self, why: str) -> None:
        """Ends all watchers, also those that are waiting."""
        self._closed = why
        self._wake()

    def watch(self, prefix: str, after: int | Position | None) -> AsyncIterator[list[Change]]:
        """See `contract.Store.watch`."""
        if after is None:
            after = self.revision
        return Watch(self, prefix, (after, END) if isinstance(after, int) else after)

    def _wake(self) -> None:
        # those who wait have the old one; who comes later waits for what comes later
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def behind(self, position: Position) -> tuple[list[Step], Position]:
        """Some changes behind a position, at least one, and the position up to which these are all."""
        while True:
            if self._closed is not None:
                raise CopperError(self._closed)
            if position[0] > self.revision:
                raise TooOld(
                    f"the state never had revision {position[0]}: its last is {self.revision}",
                    advice="list what there is, and watch from there",
                )
            news, upto = self._news, (self.revision, END)
            steps: Sequence[Step] | None = self._remembered(position)
            if steps is None and self._older is not None:
                steps = await self._older(position, upto[0], PART)
            if steps is None:
                raise TooOld(
                    f"the changes after revision {position[0]} are forgotten",
                    advice="list what there is, and watch from there",
                )
            if steps:
                found = list(steps[:PART])
                return found, upto if len(steps) < PART else (found[-1].revision, found[-1].number)
            position = upto
            await news.wait()

    def _remembered(self, position: Position) -> list[Step] | None:
        """The changes behind a position, if all of them are in memory."""
        if position < self._floor:
            return None
        steps = []
        for step in reversed(self._latest):
            if (step.revision, step.number) <= position:
                break
            steps.append(step)
        steps.reverse()
        return steps


class Watch:
    """One watcher: where it is."""

    def __init__(self, feed: Feed, prefix: str, position: Position) -> None:
        self._feed = feed
        self._prefix = prefix
        self._position = position

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> list[Change]:
        while True:
            steps, self._position = await self._feed.behind(self._position)
            if changes := [step.change() for step in steps if step.key.startswith(self._prefix)]:
                return changes
