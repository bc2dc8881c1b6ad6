"""Limits of a virtual cluster that are set while it runs: on all its hosts or on none, and for clones to come."""

from __future__ import annotations

import asyncio

import pytest

from copper.model.api import Limits, VmLimits
from copper.model.errors import Conflict, CopperError
from copper.wire import steps
from tests.cluster.whole import Gate, everywhere, six


@everywhere
async def test_limits_are_set_live_and_travel_with_new_clones(count: int) -> None:
    async with six(count) as world:
        new = VmLimits(cpus=1.5, own_bytes=64 << 20)
        for _ in range(2):
            await world.core.limit("a", None, new)
            for host in world.hosts:
                assert {name: host.limits[name] for name in host.running} == dict.fromkeys(
                    host.running, new
                )
        await world.call("a-0", "clone", count=1)
        order = next(host.running["a-6"] for host in world.hosts if "a-6" in host.running)
        assert order.limits == new


@everywhere
@pytest.mark.parametrize("how", ["fail", "lose"])
async def test_limits_that_one_host_cannot_set_are_set_nowhere(count: int, how: str) -> None:
    async with six(count) as world:
        old, new = VmLimits(cpus=1), VmLimits(cpus=2)
        await world.core.limit("a", Limits(vms=9), old)
        setattr(world.hosts[-1], how, {"limit"})
        with pytest.raises(CopperError, match="limit"):
            await world.core.limit("a", Limits(vms=7), new)
        for host in world.hosts[:-1]:
            assert all(host.limits[name] == old for name in host.running)
        row = world.book.cluster("a")
        assert (row.limits.vms, row.vm_limits) == (9, old)
        setattr(world.hosts[-1], how, set())
        await world.core.limit("a", Limits(vms=7), new)
        assert world.book.cluster("a").vm_limits == new


async def test_vms_that_are_suspended_keep_the_limits_they_had() -> None:
    async with six(3) as world:
        await world.core.suspend("a")
        with pytest.raises(Conflict, match="suspended"):
            await world.core.limit("a", Limits(vms=9), VmLimits(cpus=1.5))
        assert world.book.cluster("a").limits.vms is None
        await world.core.resume("a")
        await world.core.limit("a", None, VmLimits(cpus=1.5))


@pytest.mark.parametrize("name", ["clone.ordered", "clone.thawed", "clone.written"])
async def test_clones_that_come_while_limits_are_set_are_held_to_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with six(3) as world:
        gate = Gate(name)
        monkeypatch.setattr(steps, "hook", gate)
        fork = asyncio.create_task(world.call("a-0", "clone", count=3))
        await gate.reached.wait()
        new = VmLimits(cpus=1.5)
        await world.core.limit("a", None, new)
        gate.opened.set()
        await fork
        for host in world.hosts:
            assert all(host.limits[name] == new for name in host.running)


async def test_limits_that_are_set_while_the_cluster_changes_are_not_lost() -> None:
    for turns in range(16):
        async with six(1) as world:
            suspending = asyncio.create_task(world.core.suspend("a"))
            for _ in range(turns):
                await asyncio.sleep(0)
            await world.core.limit("a", Limits(vms=9), None)
            await suspending
            assert world.book.cluster("a").limits.vms == 9
            assert world.book.cluster("a").intent == ""


async def test_limits_of_many_at_once_all_come_to_an_end() -> None:
    async with six(1) as world:
        await asyncio.gather(
            *(world.core.limit("a", Limits(vms=number), None) for number in range(10, 20)),
            world.call("a-0", "clone", count=2),
        )
        assert world.book.cluster("a").limits.vms in range(10, 20)
