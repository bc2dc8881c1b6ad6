"""Watching a store: every change, in order, once, from wherever one left off; or an error that says why not."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from copper.model.errors import CopperError, TooOld
from copper.store import sqlite
from copper.store.contract import Change, Store
from tests.unit.stores import KINDS, opened, take


@pytest.fixture(params=[*KINDS, "sqlite, little in memory"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Store]:
    """Keeps 100 changes."""
    if "little" in request.param:
        monkeypatch.setattr(sqlite, "LATEST", 3)
    async with opened(request.param, tmp_path, history=100) as made:
        yield made


async def some_changes(store: Store) -> list[Change]:
    """Makes changes of all kinds, and says what a watcher must see."""
    await store.commit(put={"vms/a": {"n": 1}, "vms/b": {"n": 2}, "clusters/a": {}})
    await store.commit()
    await store.commit(delete=["never there"])
    await store.commit(delete=["vms/b", "clusters/a"], put={"vms/a": {"n": 3}})
    await asyncio.gather(*(store.commit(put={f"vms/{n}": {"n": n}}) for n in range(5)))
    return [
        Change("vms/a", {"n": 1}, 1, 0),
        Change("vms/b", {"n": 2}, 1, 1),
        Change("clusters/a", {}, 1, 2),
        Change("vms/b", None, 4, 0),
        Change("clusters/a", None, 4, 1),
        Change("vms/a", {"n": 3}, 4, 2),
        *(Change(f"vms/{n}", {"n": n}, 5 + n, 0) for n in range(5)),
    ]


async def test_a_watcher_sees_each_change_once_and_in_order(store: Store) -> None:
    early = asyncio.create_task(take(store.watch(""), 11))
    await asyncio.sleep(0)
    changes = await some_changes(store)
    assert await early == changes
    assert await take(store.watch("", after=0), 11) == changes


async def test_a_watch_goes_on_behind_any_change_and_any_revision(store: Store) -> None:
    changes = await some_changes(store)
    for seen, change in enumerate(changes, 1):
        rest = changes[seen:]
        assert await take(store.watch("", after=change.position), len(rest)) == rest
    for revision in range(await store.revision() + 1):
        rest = [change for change in changes if change.revision > revision]
        assert await take(store.watch("", after=revision), len(rest)) == rest


async def test_a_watcher_of_a_prefix_sees_only_that_and_the_same_numbers(store: Store) -> None:
    changes = await some_changes(store)
    wanted = [change for change in changes if change.key.startswith("clusters/")]
    assert await take(store.watch("clusters/", after=0), 2) == wanted


async def test_a_watcher_waits_for_what_is_new(store: Store) -> None:
    await store.commit(put={"a": {"n": 1}})
    watch = store.watch("a")
    waiting = asyncio.ensure_future(anext(watch))
    await store.commit(put={"b": {}})
    assert not waiting.done()
    revision = await store.commit(put={"a": {"n": 2}})
    assert await waiting == [Change("a", {"n": 2}, revision, 0)]


async def test_a_watch_from_now_on_begins_when_it_is_called(store: Store) -> None:
    watch = store.watch("")
    revision = await store.commit(put={"a": {}})
    assert await take(watch, 1) == [Change("a", {}, revision, 0)]


async def test_a_wait_that_is_given_up_loses_nothing(store: Store) -> None:
    watch = store.watch("", after=0)
    seen: list[Change] = []

    async def write() -> None:
        for n in range(60):
            await store.commit(put={"a": {"n": n}})

    writing = asyncio.create_task(write())
    while len(seen) < 60:
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.wait([waiting], timeout=0.0005)
        if not waiting.done():
            waiting.cancel()
            await asyncio.wait([waiting])
        if not waiting.cancelled():
            seen += waiting.result()
    await writing
    assert [change.value for change in seen] == [{"n": n} for n in range(60)]


async def test_what_a_watcher_gets_is_its_own(store: Store) -> None:
    one, other = store.watch(""), store.watch("")
    await store.commit(put={"a": {"list": [1]}})
    [mine] = await anext(one)
    assert mine.value is not None
    mine.value["list"].append(2)
    assert (await anext(other))[0].value == {"list": [1]}


async def test_many_watchers_while_many_write(store: Store) -> None:
    watchers = [asyncio.create_task(take(store.watch("", after=0), 90)) for _ in range(5)]
    slow = [asyncio.create_task(take(store.watch("k1/"), 9)) for _ in range(5)]
    await asyncio.sleep(0)

    async def write(task: int) -> None:
        for n in range(9):
            await store.commit(put={f"k{task}/{n}": {"n": n}})

    await asyncio.gather(*(write(task) for task in range(10)))
    first, *others = await asyncio.gather(*watchers)
    assert [change.revision for change in first] == list(range(1, 91))
    assert others == [first] * 4
    mine = [change for change in first if change.key.startswith("k1/")]
    assert await asyncio.gather(*slow) == [mine] * 5


async def test_what_is_forgotten_is_an_error_and_never_skipped(store: Store) -> None:
    slow = store.watch("", after=0)
    for n in range(400):
        await store.commit(put={"a": {"n": n}})
    assert len(await take(store.watch("", after=300), 100)) == 100
    for old in (0, 289, (289, 0)):  # it may keep a tenth more than it must
        with pytest.raises(TooOld, match="forgotten"):
            await anext(store.watch("", after=old))
    with pytest.raises(TooOld):
        await anext(slow)


async def test_a_watcher_of_what_rarely_changes_is_not_too_old_for_it(store: Store) -> None:
    rare = asyncio.ensure_future(anext(store.watch("rare/")))
    for n in range(300):
        await store.commit(put={"a": {"n": n}})
        await asyncio.sleep(0)
    revision = await store.commit(put={"rare/a": {}})
    assert await rare == [Change("rare/a", {}, revision, 0)]


async def test_one_revision_of_more_changes_than_are_kept_is_no_trap(store: Store) -> None:
    await store.commit(put={f"{n:03}": {} for n in range(250)})
    tail = await take(store.watch("", after=(1, 199)), 50)
    assert [change.number for change in tail] == list(range(200, 250))
    with pytest.raises(TooOld):
        await anext(store.watch("", after=0))


async def test_a_revision_that_never_was_is_an_error(store: Store) -> None:
    """As when the state is one of another time: whoever waits for its revision would miss those before it."""
    await store.commit(put={"a": {}})
    with pytest.raises(TooOld, match="never had revision 7"):
        await anext(store.watch("", after=7))


async def test_a_watcher_that_is_left_holds_nothing(store: Store) -> None:
    watch = store.watch("")
    await store.commit(put={"a": {}})
    await anext(watch)
    left = weakref.ref(watch)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    del watch, waiting
    gc.collect()
    assert left() is None


async def test_closing_ends_those_who_wait_with_an_error(store: Store) -> None:
    waiting = [asyncio.ensure_future(anext(store.watch("", after))) for after in (None, 0)]
    await asyncio.sleep(0)
    await store.close()
    for task in waiting:
        with pytest.raises(CopperError, match="not open"):
            await task
    with pytest.raises(CopperError, match="not open"):
        await anext(store.watch(""))


async def test_a_watch_goes_on_after_a_new_start(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        changes = await some_changes(store)
    async with opened("sqlite", tmp_path) as store:
        assert await store.revision() == 9
        for seen, change in enumerate(list(changes), 1):
            new = asyncio.create_task(
                take(store.watch("", after=change.position), len(changes) - seen + 1)
            )
            await asyncio.sleep(0)
            revision = await store.commit(put={"new": {}})
            changes.append(Change("new", {}, revision, 0))
            assert await new == changes[seen:]


async def test_a_long_way_back_comes_in_parts(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        for part in range(10):
            await store.commit(put={f"{part}/{n:03}": {} for n in range(350)})
        changes = await take(store.watch("", after=0), 3500)
    assert [change.key for change in changes] == [
        f"{part}/{n:03}" for part in range(10) for n in range(350)
    ]


async def test_the_history_on_disk_is_kept_short(tmp_path: Path) -> None:
    lengths = []
    async with opened("sqlite", tmp_path, history=50) as store:
        for _ in range(20):
            await asyncio.gather(*(store.commit(put={"a": {}}) for _ in range(7)))
            with sqlite3.connect(tmp_path / "state.sqlite") as db:
                lengths += db.execute("SELECT count(*) FROM history").fetchone()
    assert all(50 <= length <= 55 for length in lengths[8:])
    async with opened("sqlite", tmp_path, history=50) as store:  # and what is forgotten stays so
        with pytest.raises(TooOld):
            await anext(store.watch("", after=80))
        assert len(await take(store.watch("", after=90), 50)) == 50
