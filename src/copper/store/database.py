"""The store's file: SQLite with write-ahead log and full synchronisation. Plain calls, for one thread each.

One connection writes, whole batches at once; another reads meanwhile what is durable.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from copper.model.errors import CopperError, Foreign, NoRoom
from copper.store.contract import Entry
from copper.store.draft import Draft, Position, Request, Step
from copper.wire import trace

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
    """
    ALTER TABLE entries ADD COLUMN lease INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX leased ON entries (lease) WHERE lease != 0;
    ALTER TABLE counter ADD COLUMN lease INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE leases (lease INTEGER PRIMARY KEY, ttl_s REAL NOT NULL);
    CREATE TABLE history (
        revision INTEGER NOT NULL,
        number INTEGER NOT NULL,
        key TEXT NOT NULL,
        value TEXT,
        PRIMARY KEY (revision, number)
    ) WITHOUT ROWID;
    -- the last change that the history does not have: none of those before this version, 2^31 is behind all numbers
    CREATE TABLE forgotten (revision INTEGER NOT NULL, number INTEGER NOT NULL);
    INSERT INTO forgotten SELECT revision, 2147483648 FROM counter;
    """,
)
# what SQLite calls a disk that is full: while it writes, and while it grows its log's index
FULL = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")

Results = list[int | CopperError]  # what each request of a batch returns, or raises


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """SQLite's errors as Copper's: NoRoom, or one that says what is wrong with the file."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "") in FULL:
            raise NoRoom(f"the state cannot be written: {error}") from error
        if isinstance(error, sqlite3.OperationalError):
            raise CopperError(f"the state in {path} does not answer: {error}") from error
        raise CopperError(f"the state in {path} is damaged: {error}") from error


class Writer:
    """The one that writes. All of it runs in one thread, and raises what `explained` does."""

    def __init__(self, path: Path, history: int) -> None:
        """Opens or makes the database. Raises Foreign when a newer Copper wrote it."""
        self._path = path
        self._history = history
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=10)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    def _open(self) -> None:
        db = self._db
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
            db.executescript(f"BEGIN;{MIGRATIONS[number]};PRAGMA user_version={number + 1};COMMIT;")
        self.revision, self.lease = db.execute("SELECT revision, lease FROM counter").fetchone()
        (self._kept,) = db.execute("SELECT count(*) FROM history").fetchone()

    def leases(self) -> list[tuple[int, float]]:
        """All leases, with their seconds."""
        with explained(self._path):
            return self._db.execute("SELECT lease, ttl_s FROM leases").fetchall()

    def write(self, requests: Sequence[Request]) -> tuple[Results, Draft]:
        """Writes in one transaction what these requests come to, and gives what each returns or raises.

        Raises NoRoom and the like when nothing of it is written.
        """
        with explained(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._check_alone()
                draft = Draft(self, self.revision, self.lease)
                results: Results = []
                for request in requests:
                    try:
                        results.append(draft.take(request))
                    except CopperError as error:
                        results.append(error)
                kept = self._save(draft)
                with trace.span("commit", "store", line=trace.NODE):
                    self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite has ended it already, if the disk is full
                    self._db.execute("ROLLBACK")
                raise
        self.revision, self.lease, self._kept = draft.revision, draft.lease, kept
        return results, draft

    def _check_alone(self) -> None:
        # two who write would not see each other's changes, nor would those who watch them
        found = self._db.execute("SELECT revision, lease FROM counter").fetchone()
        if found != (self.revision, self.lease):
            raise CopperError(
                f"another process writes the state in {self._path}",
                advice="run one Copper, and start this one again",
            )

    def _save(self, draft: Draft) -> int:
        """Returns how many changes the history has then."""
        db = self._db
        if (draft.revision, draft.lease) != (self.revision, self.lease):
            db.execute("UPDATE counter SET revision = ?, lease = ?", (draft.revision, draft.lease))
        put = [(key, *row) for key, row in draft.rows.items() if row is not None]
        deleted = [(key,) for key, row in draft.rows.items() if row is None]
        db.executemany(
            "INSERT INTO entries (key, value, revision, lease) VALUES (?, ?, ?, ?) ON CONFLICT"
            " (key) DO UPDATE SET value = excluded.value, revision = excluded.revision,"
            " lease = excluded.lease",
            put,
        )
        db.executemany("DELETE FROM entries WHERE key = ?", deleted)
        for lease, ttl_s in draft.leases.items():
            if ttl_s is None:
                db.execute("DELETE FROM leases WHERE lease = ?", (lease,))
            else:
                db.execute("INSERT INTO leases VALUES (?, ?)", (lease, ttl_s))
        db.executemany("INSERT INTO history VALUES (?, ?, ?, ?)", draft.steps)
        return self._trim(self._kept + len(draft.steps))

    def _trim(self, kept: int) -> int:
        """Forgets the oldest changes, a tenth at a time."""
        if kept < self._history + max(1, self._history // 10):
            return kept
        last = self._db.execute(
            "SELECT revision, number FROM history ORDER BY revision, number LIMIT 1 OFFSET ?",
            (kept - self._history - 1,),
        ).fetchone()
        self._db.execute("DELETE FROM history WHERE (revision, number) <= (?, ?)", last)
        self._db.execute("UPDATE forgotten SET revision = ?, number = ?", last)
        return self._history

    def revision_of(self, key: str) -> int:
        found = self._db.execute("SELECT revision FROM entries WHERE key = ?", (key,)).fetchone()
        return found[0] if found else 0

    def keys_of(self, lease: int) -> list[str]:
        # the second condition is what lets SQLite use the index of leased entries
        rows = self._db.execute("SELECT key FROM entries WHERE lease = ? AND lease != 0", (lease,))
        return [key for (key,) in rows]

    def has_lease(self, lease: int) -> bool:
        found = self._db.execute("SELECT 1 FROM leases WHERE lease = ?", (lease,)).fetchone()
        return found is not None

    def close(self) -> None:
        with explained(self._path):
            self._db.close()


class Reader:
    """One that reads what is durable, while another writes. All of it runs in one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with explained(path):
            self._db = sqlite3.connect(path, isolation_level=None, timeout=10)

    def get(self, key: str) -> Entry | None:
        with explained(self._path):
            row = self._db.execute(
                "SELECT key, value, revision FROM entries WHERE key = ?", (key,)
            ).fetchone()
        return Entry(row[0], json.loads(row[1]), row[2]) if row else None

    def list(self, prefix: str) -> list[Entry]:
        with explained(self._path):
            rows = self._db.execute(
                "SELECT key, value, revision FROM entries WHERE key >= ? AND key < ? ORDER BY key",
                (prefix, prefix + "\U0010ffff"),
            ).fetchall()
        return [Entry(key, json.loads(value), revision) for key, value, revision in rows]

    def steps(self, behind: Position, upto: int, limit: int) -> Sequence[Step] | None:
        """So many changes behind a position, until a revision; None when some of them are forgotten."""
        with explained(self._path):
            rows = self._db.execute(
                "SELECT revision, number, key, value FROM history"
                " WHERE (revision, number) > (?, ?) AND revision <= ?"
                " ORDER BY revision, number LIMIT ?",
                (*behind, upto, limit),
            ).fetchall()
            # asked after the rows: what is forgotten in between is then missed here, never there
            last = self._db.execute("SELECT revision, number FROM forgotten").fetchone()
        return None if behind < last else [Step(*row) for row in rows]

    def close(self) -> None:
        with explained(self._path):
            self._db.close()
