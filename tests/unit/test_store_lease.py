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


class Clock:
    """The time of the loop, which stands still but for `advance`: a slow machine ends no lease."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    async def advance(self, seconds: float) -> None:
        """Returns when all that is due has been begun."""
        self.now += seconds
        for _ in range(3):
            await asyncio.sleep(0)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    loop = asyncio.get_running_loop()
    made = Clock(loop.time())
    monkeypatch.setattr(loop, "time", made)
    return made


async def keys(store: Store) -> list[str]:
    """Those that are there when all that was begun is written."""
    await store.commit(put={"z": {}})
    return [entry.key for entry in await store.list("") if entry.key != "z"]


async def test_the_keys_of_a_lease_go_with_it_in_one_change_and_not_before(
    store: Store, clock: Clock
) -> None:
    watch = store.watch("")
    lease = await store.grant(0.5)
    put = await store.commit(put={"b": {}, "a": {}}, lease=lease)
    await store.commit(put={"c": {}})
    await take(watch, 3)
    await clock.advance(0.49)
    assert await keys(store) == ["a", "b", "c"]
    await clock.advance(0.02)
    _, first, second = await take(watch, 3)
    assert (first, second) == (Change("a", None, put + 3, 0), Change("b", None, put + 3, 1))
    assert await keys(store) == ["c"]


async def test_a_lease_that_is_kept_lives_on(store: Store, clock: Clock) -> None:
    lease = await store.grant(0.6)
    await store.commit(put={"a": {}}, lease=lease)
    for _ in range(3):
        await clock.advance(0.5)
        await store.keep(lease)
    await clock.advance(0.59)
    assert await keys(store) == ["a"]
    await clock.advance(0.02)
    assert await keys(store) == []


async def test_a_lease_that_is_over_is_not_found(store: Store, clock: Clock) -> None:
    lease = await store.grant(0.3)
    watch = store.watch("")
    await store.commit(put={"a": {}}, lease=lease)
    await clock.advance(0.31)
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


async def test_many_leases_end_each_at_its_time(store: Store, clock: Clock) -> None:
    began = clock.now
    for n in range(20):
        lease = await store.grant(1 - n / 50)
        await store.commit(put={f"{n:02}": {}}, lease=lease)
    for n in reversed(range(20)):
        end = began + 1 - n / 50
        await clock.advance(end - 0.005 - clock.now)
        assert await keys(store) == [f"{other:02}" for other in range(n + 1)]
        await clock.advance(0.01)
        assert await keys(store) == [f"{other:02}" for other in range(n)]


async def test_a_lease_has_all_its_time_again_after_a_new_start(
    tmp_path: Path, clock: Clock
) -> None:
    async with opened("sqlite", tmp_path) as store:
        lease, ended = await store.grant(0.5), await store.grant(1000)
        await store.commit(put={"a": {}}, lease=lease)
        await store.revoke(ended)
        await clock.advance(0.4)
    async with opened("sqlite", tmp_path) as store:
        await clock.advance(0.49)
        assert await keys(store) == ["a"]
        await clock.advance(0.02)
        assert await keys(store) == []
        with pytest.raises(NotFound):
            await store.keep(ended)
        assert await store.grant(1) > ended
