"""Quotas, limits and the room of hosts: nobody passes them, also not many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from copper.model.api import Limits
from copper.model.errors import NoRoom
from tests.cluster.fakes import WAIT_S, World, until
from tests.cluster.worlds import clone, quota, three


@pytest.mark.parametrize(
    ("most", "says"),
    [
        ({"vms": 4}, "2 more"),
        ({"cpus": 9}, "2 more"),
        ({"memory_mib": 150}, "2 more"),
    ],
)
@pytest.mark.parametrize("whose", ["user", "cluster"])
async def test_neither_quota_nor_limits_are_passed(
    most: dict[str, int], says: str, whose: str
) -> None:
    async with World() as world:
        limits = Limits(**most) if whose == "cluster" else Limits()
        if whose == "user":
            await quota(world, "ann", **most)
        master = await world.boot("a", owner="ann", limits=limits)
        await clone(world, master, 1)
        says = f"{'user ann' if whose == 'user' else 'cluster a'} may have {says}"
        with pytest.raises(NoRoom, match=says):
            await clone(world, master, 3)
        with pytest.raises(NoRoom, match=says):
            await world.ticket(master, maxcpus=8, minvms=3)
        ticket = await world.ticket(master, maxcpus=100)
        assert world.book.ticket(ticket).vms == 2
        with pytest.raises(NoRoom, match="0 more"):
            await clone(world, master, 1)
        await world.call(master, "clone", ticket=ticket)
        assert len(world.vmids()) == 4
        await world.call(master, "killall")
        assert len(await clone(world, master, 3)) == 3


async def test_a_quota_is_one_for_all_clusters_of_a_user() -> None:
    async with World(hosts=three()) as world:
        await quota(world, "ann", vms=3)
        one = await world.boot("a", owner="ann")
        await world.boot("b", owner="ann")
        await world.boot("other", owner="bob")
        await clone(world, one, 1)
        for vm in (one, "b-0"):
            with pytest.raises(NoRoom, match="user ann may have 0 more"):
                await clone(world, vm, 1)
        with pytest.raises(NoRoom, match="user ann"):
            await world.boot("c", owner="ann")
        assert len(await clone(world, "other-0", 5)) == 5


async def test_a_quota_that_is_raised_wakes_who_waits_for_it() -> None:
    async with World() as world:
        await quota(world, "ann", vms=1)
        master = await world.boot("a", owner="ann")
        waiting = asyncio.create_task(world.ticket(master, maxcpus=2, timeout_ms=60_000))
        await until(lambda: world.core.tickets.waiting == 1)
        await quota(world, "ann", vms=2)
        async with asyncio.timeout(WAIT_S):
            assert world.book.ticket(await waiting).vms == 1


async def test_limits_that_are_raised_wake_who_waits_for_them() -> None:
    async with World() as world:
        master = await world.boot("a", limits=Limits(vms=1))
        waiting = asyncio.create_task(world.ticket(master, maxcpus=2, timeout_ms=60_000))
        await until(lambda: world.core.tickets.waiting == 1)
        await world.core.limit("a", Limits(vms=3), None)
        async with asyncio.timeout(WAIT_S):
            await waiting


async def test_a_quota_that_is_lowered_takes_nothing_away() -> None:
    async with World() as world:
        master = await world.boot("a", owner="ann")
        await clone(world, master, 4)
        ticket = await world.ticket(master, maxcpus=4)
        await quota(world, "ann", vms=2)
        await world.call(master, "clone", ticket=ticket)
        assert len(world.vmids()) == 7
        with pytest.raises(NoRoom, match="0 more"):
            await clone(world, master, 1)


async def test_many_at_once_do_not_pass_a_quota_together() -> None:
    async with World(hosts=three()) as world:
        await quota(world, "ann", vms=10)
        masters = [await world.boot(name, owner="ann") for name in ("a", "b", "c")]
        calls: list[Awaitable[object]] = []
        for master in masters:
            calls += [clone(world, master, 2) for _ in range(3)]
            calls += [world.ticket(master, maxcpus=4) for _ in range(3)]
        await asyncio.gather(*calls, return_exceptions=True)
        assert world.core.capacity.owners["ann"].vms == 10
        world.agree()


async def test_many_at_once_do_not_pass_the_room_of_a_host_together() -> None:
    async with World(hosts=three(room=5)) as world:
        masters = [await world.boot(name, placement="spread") for name in ("a", "b", "c")]
        calls: list[Awaitable[object]] = []
        for master in masters:
            calls += [clone(world, master, 2) for _ in range(3)]
            calls += [world.ticket(master, maxcpus=4) for _ in range(3)]
        await asyncio.gather(*calls, return_exceptions=True)
        for host in world.hosts:
            assert world.core.capacity.hosts[host.name].vms <= 5
        assert sum(one.vms for one in world.core.capacity.hosts.values()) >= 14
        world.agree()
