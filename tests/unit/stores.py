"""Every kind of store, opened and closed, for the tests that hold them to their contract."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from copper.store.contract import HISTORY, Change, Store
from copper.store.memory import MemoryStore
from copper.store.sqlite import SqliteStore

KINDS = ["memory", "sqlite"]


@contextlib.asynccontextmanager
async def opened(kind: str, folder: Path, history: int = HISTORY) -> AsyncIterator[Store]:
    """A store of that kind; one that was in this folder before is opened again."""
    if kind == "memory":
        store: Store = MemoryStore(history)
    else:
        store = sqlite = SqliteStore(folder / "state.sqlite", history)
        await sqlite.open()
    try:
        yield store
    finally:
        await store.close()


async def take(watch: AsyncIterator[list[Change]], count: int) -> list[Change]:
    """So many changes, waiting for them if they are not there yet."""
    changes: list[Change] = []
    async with asyncio.timeout(120):
        while len(changes) < count:
            changes += await anext(watch)
    return changes


async def what_is_there(store: Store) -> list[tuple[str, object, int]]:
    """All keys with their values and revisions."""
    return [(entry.key, entry.value, entry.revision) for entry in await store.list("")]
