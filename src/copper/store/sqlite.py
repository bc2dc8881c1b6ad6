"""The store of one machine: SQLite, with write-ahead log and full synchronisation."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from copper.model.errors import CopperError, Foreign, NoRoom
from copper.store.contract import Changed, Entry

# each step takes a database from its index's version to the next; none is ever edited
MIGRATIONS = (
    """
    CREATE TABLE entries (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL,
        revision INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE counter (revision INTEGER NOT NULL);
    INSERT INTO counter VALUES (0);
    """,
)
T = TypeVar("T")


class SqliteStore:
    """See `contract.Store`. One thread owns the connection."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "store")
        self._db: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Opens or makes the database. Raises Foreign when a newer Copper wrote it."""
        await self._run(self._open)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._path, isolation_level=None, timeout=10)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > len(MIGRATIONS):
                raise Foreign(
                    f"the state in {self._path} has version {version}, this Copper knows"
                    f" {len(MIGRATIONS)}",
                    advice="use the newer Copper that wrote it",
                )
            for number in range(version, len(MIGRATIONS)):
                db.executescript(
                    f"BEGIN;{MIGRATIONS[number]};PRAGMA user_version={number + 1};COMMIT;"
                )
        except BaseException:
            db.close()
            raise
        self._db = db

    async def _run(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, work)
        except sqlite3.OperationalError as error:
            if "full" in str(error):
                raise NoRoom(f"the state cannot be written: {error}") from error
            raise CopperError(f"the state in {self._path} does not answer: {error}") from error
        except sqlite3.DatabaseError as error:
            raise CopperError(f"the state in {self._path} is damaged: {error}") from error

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise CopperError("the state is not open")
        return self._db

    async def get(self, key: str) -> Entry | None:
        def work() -> Entry | None:
            row = self._connection.execute(
                "SELECT key, value, revision FROM entries WHERE key = ?", (key,)
            ).fetchone()
            return Entry(row[0], json.loads(row[1]), row[2]) if row else None

        return await self._run(work)

    async def list(self, prefix: str) -> list[Entry]:
        def work() -> list[Entry]:
            rows = self._connection.execute(
                "SELECT key, value, revision FROM entries WHERE key >= ? AND key < ? ORDER BY key",
                (prefix, prefix + "\U0010ffff"),
            )
            return [Entry(key, json.loads(value), revision) for key, value, revision in rows]

        return await self._run(work)

    async def commit(
        self,
        *,
        expect: Mapping[str, int] = {},
        put: Mapping[str, dict[str, Any]] = {},
        delete: Sequence[str] = (),
    ) -> int:
        return await self._run(lambda: self._commit(dict(expect), dict(put), list(delete)))

    def _commit(
        self, expect: dict[str, int], put: dict[str, dict[str, Any]], delete: Sequence[str]
    ) -> int:
        db = self._connection
        db.execute("BEGIN IMMEDIATE")
        try:
            for key, wanted in expect.items():
                row = db.execute("SELECT revision FROM entries WHERE key = ?", (key,)).fetchone()
                found = row[0] if row else 0
                if found != wanted:
                    raise Changed(f"{key} has revision {found}, {wanted} was expected")
            db.execute("UPDATE counter SET revision = revision + 1")
            (revision,) = db.execute("SELECT revision FROM counter").fetchone()
            db.executemany("DELETE FROM entries WHERE key = ?", [(key,) for key in delete])
            db.executemany(
                "INSERT INTO entries VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE"
                " SET value = excluded.value, revision = excluded.revision",
                [(key, json.dumps(value), revision) for key, value in put.items()],
            )
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        return int(revision)

    async def close(self) -> None:
        def work() -> None:
            if self._db is not None:
                self._db.close()
                self._db = None

        await self._run(work)
        self._thread.shutdown()
