"""The contract of every store, held against each of them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from copper.model.errors import CopperError, Foreign
from copper.store.contract import Changed, Store
from copper.store.memory import MemoryStore
from copper.store.database import MIGRATIONS
from copper.store.sqlite import SqliteStore


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    made = SqliteStore(tmp_path / "state.sqlite")
    await made.open()
    yield made
    await made.close()


async def test_what_was_put_is_got_with_the_revision_that_wrote_it(store: Store) -> None:
    first = await store.commit(put={"a": {"n": 1}})
    second = await store.commit(put={"b": {"n": 2}})
    assert second > first
    entry = await store.get("a")
    assert entry is not None
    assert (entry.value, entry.revision) == ({"n": 1}, first)
    assert await store.get("c") is None


async def test_list_takes_a_prefix_and_sorts_by_key(store: Store) -> None:
    await store.commit(put={"vms/b": {}, "vms/a": {}, "vmsx": {}, "clusters/a": {}})
    assert [entry.key for entry in await store.list("vms/")] == ["vms/a", "vms/b"]
    assert await store.list("none/") == []


async def test_a_commit_compares_before_it_writes_anything(store: Store) -> None:
    revision = await store.commit(put={"a": {"n": 1}})
    await store.commit(expect={"a": revision}, put={"a": {"n": 2}})
    with pytest.raises(Changed):
        await store.commit(expect={"a": revision}, put={"a": {"n": 3}, "b": {}}, delete=["a"])
    entry = await store.get("a")
    assert entry is not None and entry.value == {"n": 2}
    assert await store.get("b") is None


async def test_zero_expects_absence(store: Store) -> None:
    await store.commit(expect={"a": 0}, put={"a": {}})
    with pytest.raises(Changed):
        await store.commit(expect={"a": 0}, put={"a": {}})
    await store.commit(delete=["a", "never there"])
    await store.commit(expect={"a": 0}, put={"a": {}})


async def test_what_was_got_is_a_copy(store: Store) -> None:
    value = {"list": [1]}
    await store.commit(put={"a": value})
    value["list"].append(2)
    entry = await store.get("a")
    assert entry is not None and entry.value == {"list": [1]}


async def test_what_was_committed_is_there_after_a_new_start(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    store = SqliteStore(path)
    await store.open()
    revision = await store.commit(put={"a": {"n": 1}})
    await store.close()
    again = SqliteStore(path)
    await again.open()
    entry = await again.get("a")
    assert entry is not None and entry.revision == revision
    assert await again.commit(put={"b": {}}) > revision
    await again.close()


async def test_a_state_of_a_newer_copper_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    store = SqliteStore(path)
    with pytest.raises(Foreign, match="version"):
        await store.open()
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
