"""The store on disk, when the disk is full, the process killed, the file old, new, foreign or another's."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from copper.model.errors import CopperError, Foreign, NoRoom, NotFound
from copper.store import leases
from copper.store.contract import Change
from copper.store.database import MIGRATIONS, Writer
from copper.store.sqlite import SqliteStore
from tests.unit.stores import opened, take, what_is_there


async def test_what_was_committed_is_there_after_a_new_start(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        revision = await store.commit(put={"a": {"n": 1}})
    async with opened("sqlite", tmp_path) as store:
        entry = await store.get("a")
        assert entry is not None and entry.revision == revision
        assert await store.commit(put={"b": {}}) > revision


async def test_a_state_of_a_newer_copper_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    store = SqliteStore(path)
    with pytest.raises(Foreign, match="version"):
        await store.open()
    with pytest.raises(CopperError, match="not open"):
        await anext(store.watch(""))
    await store.close()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


async def test_a_file_that_is_no_database_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    path.write_bytes(b"not a database, not at all" * 100)
    store = SqliteStore(path)
    with pytest.raises(CopperError, match="damaged"):
        await store.open()
    await store.close()


async def test_a_state_of_the_first_version_keeps_its_entries(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state.sqlite") as db:
        db.executescript(f"BEGIN;{MIGRATIONS[0]};PRAGMA user_version=1;COMMIT;")
        db.execute("""INSERT INTO entries VALUES ('a', '{"n": 1}', 3), ('b', '{}', 7)""")
        db.execute("UPDATE counter SET revision = 7")
    async with opened("sqlite", tmp_path) as store:
        assert await what_is_there(store) == [("a", {"n": 1}, 3), ("b", {}, 7)]
        with pytest.raises(CopperError, match="forgotten"):
            await anext(store.watch("", after=6))
        lease = await store.grant(1000)
        assert await store.commit(expect={"a": 3}, put={"a": {"n": 2}}, lease=lease) == 8
        assert await take(store.watch("", after=7), 1) == [Change("a", {"n": 2}, 8, 0)]


async def test_what_is_asked_for_at_once_is_one_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    write = Writer.write

    def counted(self: Writer, requests: Any) -> Any:
        sizes.append(len(requests))
        return write(self, requests)

    monkeypatch.setattr(Writer, "write", counted)
    async with opened("sqlite", tmp_path) as store:

        async def client(name: int) -> None:
            for n in range(5):
                await store.commit(put={f"{name}": {"n": n}})

        await asyncio.gather(*(client(name) for name in range(64)))
    assert sizes == [64] * 5


async def test_who_finds_another_writer_stops(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as old:
        await old.commit(put={"a": {"n": 1}})
        async with opened("sqlite", tmp_path) as new:
            await new.commit(put={"a": {"n": 2}})
            with pytest.raises(CopperError, match="another process"):
                await old.commit(put={"a": {"n": 3}})
            entry = await new.get("a")
            assert entry is not None and entry.value == {"n": 2}


class Disk:
    """Lets a store's file grow only so far, as a disk that becomes full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._connections: list[sqlite3.Connection] = []
        connect = sqlite3.connect

        def connected(*args: Any, **more: Any) -> sqlite3.Connection:
            self._connections.append(connect(*args, **{**more, "check_same_thread": False}))
            return self._connections[-1]

        monkeypatch.setattr(sqlite3, "connect", connected)

    def fill(self) -> None:
        self._set(1)  # SQLite makes that: as many as it has

    def make_room(self) -> None:
        self._set(1_000_000)

    def _set(self, pages: int) -> None:
        for db in self._connections:
            db.execute(f"PRAGMA max_page_count={pages}")


async def test_a_full_disk_refuses_the_whole_batch_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    async with opened("sqlite", tmp_path) as store:
        await store.commit(put={"a": {"n": 1}})
        before = await what_is_there(store)
        watch = store.watch("")
        disk.fill()
        large = [store.commit(put={f"b{n}": {"x": "x" * 5000}}) for n in range(5)]
        results = await asyncio.gather(*large, return_exceptions=True)
        assert [type(result) for result in results] == [NoRoom] * 5
        assert len({id(result) for result in results}) == 5
        assert await what_is_there(store) == before
        assert await store.revision() == 1
        disk.make_room()
        assert await store.commit(put={"b": {"x": "x" * 5000}}) == 2
        assert [change.key for change in await take(watch, 1)] == ["b"]


async def test_a_lease_that_cannot_be_ended_on_a_full_disk_is_ended_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "AGAIN_S", 0.02)
    refused = asyncio.Event()
    loop = asyncio.get_running_loop()
    write = Writer.write

    def full(self: Writer, requests: Any) -> Any:
        loop.call_soon_threadsafe(refused.set)
        raise NoRoom("full")

    async with opened("sqlite", tmp_path) as store:
        lease = await store.grant(0.3)
        await store.commit(put={"a": {}}, lease=lease)
        watch = store.watch("")
        monkeypatch.setattr(Writer, "write", full)
        await refused.wait()
        assert await store.get("a") is not None
        with pytest.raises(NotFound):  # nobody can hold on to it meanwhile
            await store.keep(lease)
        refused.clear()
        await refused.wait()
        monkeypatch.setattr(Writer, "write", write)
        assert [change.value for change in await take(watch, 1)] == [None]


# fills a small disk of its own; prints how it went
ON_A_SMALL_DISK = """
import asyncio, subprocess, sys
from pathlib import Path
from copper.model.errors import NoRoom
from copper.store.sqlite import SqliteStore

async def main(folder):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], check=True)
    filler = folder / "filler"
    filler.write_bytes(bytes(500_000))
    store = SqliteStore(folder / "state.sqlite")
    await store.open()
    done = 0
    try:
        while True:
            await store.commit(put={f"k{done}": {"x": "x" * 3000}, "last": {"n": done}})
            done += 1
    except NoRoom:
        pass
    for again in range(2):
        entries = {entry.key: entry.value for entry in await store.list("")}
        assert len(entries) == done + 1 and entries["last"] == {"n": done - 1}
        assert await store.revision() == done
        await store.close()
        filler.unlink(missing_ok=True)
        store = SqliteStore(folder / "state.sqlite")
        await store.open()
    assert await store.commit(put={"room": {"x": "x" * 3000}}) == done + 1
    await store.close()
    print("fine", done)

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    can = subprocess.run(
        [*unshare, "mount", "-t", "tmpfs", "none", tmp_path], capture_output=True, check=False
    )
    if shutil.which("unshare") is None or can.returncode != 0:
        pytest.skip("this machine lets nobody mount a tmpfs in a namespace of their own")
    done = subprocess.run(
        [*unshare, sys.executable, "-c", ON_A_SMALL_DISK, tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("fine"), done.stderr


# sixteen tasks count, each in two keys at once, and print what is acknowledged
COUNTING = """
import asyncio, os, sys
from pathlib import Path
from copper.store.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()

    async def count(task):
        entry = await store.get(f"{task}/a")
        n, revision = (entry.value["n"], entry.revision) if entry else (0, 0)
        while True:
            n += 1
            values = {f"{task}/a": {"n": n}, f"{task}/b": {"n": n, "x": "x" * (n % 7) * 500}}
            revision = await store.commit(expect={f"{task}/a": revision}, put=values)
            os.write(1, b"%d %d %d\\n" % (task, n, revision))

    await asyncio.gather(*map(count, range(16)))

asyncio.run(main())
"""


def counted_until_killed(path: Path) -> list[bytes]:
    """Counts, is killed after some random line, and gives all lines."""
    command = [sys.executable, "-c", COUNTING, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as counting:
        assert counting.stdout is not None
        lines = [counting.stdout.readline() for _ in range(random.randint(1, 700))]
        counting.kill()
        return [*lines, *counting.stdout.readlines()]


async def test_what_was_acknowledged_outlives_a_kill_and_nothing_is_there_by_half(
    tmp_path: Path,
) -> None:
    acknowledged: dict[int, tuple[int, int]] = {}  # by revision: task and count
    for _ in range(6):
        for line in counted_until_killed(tmp_path / "state.sqlite"):
            assert line.endswith(b"\n")
            task, n, revision = map(int, line.split())
            acknowledged[revision] = (task, n)

        async with opened("sqlite", tmp_path) as store:
            last = await store.revision()
            assert last >= max(acknowledged)
            changes = await take(store.watch("", after=0), last * 2)
            for revision in range(1, last + 1):
                one, other = changes[2 * revision - 2 : 2 * revision]
                assert one.revision == other.revision == revision
                assert one.value is not None and other.value is not None
                done = (int(one.key.partition("/")[0]), one.value["n"])
                assert done == (int(other.key.partition("/")[0]), other.value["n"])
                assert acknowledged.get(revision, done) == done
            latest = {change.key: (change.value, change.revision) for change in changes}
            there = {key: (value, revision) for key, value, revision in await what_is_there(store)}
            assert there == latest
