"""Leases: keys that go when nobody keeps them; never early, and by no clock that one can set."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from copper.model.errors import BadInput, NotFound
from copper.store.contract import Change, Store
from tests.unit.stores import KINDS, opened, take, what_is_there


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path) as made:
        yield made


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_the_keys_of_a_lease_go_with_it_in_one_change_and_not_before(store: Store) -> None:
    watch = store.watch("")
    began = now()
    lease = await store.grant(0.5)
    put = await store.commit(put={"b": {}, "a": {}}, lease=lease)
    await store.commit(put={"c": {}})
    *_, first, second = await take(watch, 5)
    assert now() - began >= 0.5
    assert (first, second) == (Change("a", None, put + 2, 0), Change("b", None, put + 2, 1))
    assert [entry.key for entry in await store.list("")] == ["c"]


async def test_a_lease_that_is_kept_lives_on(store: Store) -> None:
    lease = await store.grant(0.6)
    await store.commit(put={"a": {}}, lease=lease)
    gone = asyncio.create_task(take(store.watch("a"), 1))
    kept = now()
    for _ in range(3):
        await asyncio.wait([gone], timeout=0.25)
        assert not gone.done()
        kept = now()
        await store.keep(lease)
    await gone
    assert now() - kept >= 0.6


async def test_a_lease_that_is_over_is_not_found(store: Store) -> None:
    lease = await store.grant(0.3)
    watch = store.watch("")
    await store.commit(put={"a": {}}, lease=lease)
    await take(watch, 2)
    with pytest.raises(NotFound):
        await store.keep(lease)
    with pytest.raises(NotFound):
        await store.revoke(lease)
    with pytest.raises(NotFound):
        await store.commit(put={"b": {}}, lease=lease)
    with pytest.raises(NotFound):
        await store.commit(put={"b": {}}, lease=lease + 1)
    assert await store.list("") == []


async def test_a_lease_can_be_ended_before_its_time(store: Store) -> None:
    lease, other = await store.grant(1000), await store.grant(1000)
    await store.commit(put={"a": {}}, lease=lease)
    revision = await store.commit(put={"b": {}}, lease=other)
    await store.revoke(lease)
    assert [entry.key for entry in await store.list("")] == ["b"]
    assert await store.revision() == revision + 1
    with pytest.raises(NotFound):
        await store.keep(lease)
    await store.keep(other)


async def test_a_lease_without_keys_takes_no_revision_and_no_number_comes_twice(
    store: Store,
) -> None:
    first = await store.grant(1000)
    await store.revoke(first)
    assert await store.revision() == 0
    assert await store.grant(1000) > first


async def test_a_key_has_the_lease_of_who_put_it_last(store: Store) -> None:
    lease, other = await store.grant(1000), await store.grant(1000)
    await store.commit(put={"a": {}, "b": {}, "c": {}}, lease=lease)
    await store.commit(put={"a": {}})
    await store.commit(put={"b": {}}, lease=other)
    await store.revoke(lease)
    assert [entry.key for entry in await store.list("")] == ["a", "b"]
    await store.revoke(other)
    assert [entry.key for entry in await store.list("")] == ["a"]


async def test_what_is_asked_for_around_the_end_of_a_lease_keeps_its_order(store: Store) -> None:
    lease = await store.grant(1000)
    before = store.commit(put={"a": {}, "b": {}}, lease=lease)
    free = store.commit(put={"b": {}})
    first, second, ended, late, last = await asyncio.gather(
        before,
        free,
        store.revoke(lease),
        store.commit(put={"c": {}}, lease=lease),
        store.commit(put={"d": {}}),
        return_exceptions=True,
    )
    assert isinstance(late, NotFound)
    assert (first, second, ended, last) == (1, 2, None, 4)
    assert await what_is_there(store) == [("b", {}, 2), ("d", {}, 4)]


async def test_the_wall_clock_ends_no_lease(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = await store.grant(1000)
    await store.commit(put={"a": {}}, lease=lease)
    real = time.time
    for jump in (86400, -86400):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        await store.commit(put={"b": {}})
        await store.keep(lease)
    assert len(await store.list("")) == 2


@pytest.mark.parametrize("ttl_s", [0, -1, float("inf"), float("nan")])
async def test_a_lease_has_a_time_and_it_is_not_nothing(store: Store, ttl_s: float) -> None:
    with pytest.raises(BadInput):
        await store.grant(ttl_s)


async def test_many_leases_end_each_at_its_time(store: Store) -> None:
    watch = store.watch("gone/")
    ends = {}
    for n in range(20):
        ends[f"gone/{n}"] = now() + 1 - n / 50
        lease = await store.grant(1 - n / 50)
        await store.commit(put={f"gone/{n}": {}}, lease=lease)
    for change in await take(watch, 20):
        assert change.value is not None
    while ends:
        for change in await take(watch, 1):
            assert change.value is None
            assert now() >= ends.pop(change.key)


async def test_a_lease_has_all_its_time_again_after_a_new_start(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        lease, ended = await store.grant(0.5), await store.grant(1000)
        await store.commit(put={"a": {}}, lease=lease)
        await store.revoke(ended)
    began = now()
    async with opened("sqlite", tmp_path) as store:
        [gone] = await take(store.watch("a"), 1)
        assert now() - began >= 0.5
        assert gone.value is None
        with pytest.raises(NotFound):
            await store.keep(ended)
        assert await store.grant(1) > ended
