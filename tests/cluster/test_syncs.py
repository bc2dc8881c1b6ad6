"""sync: a barrier lets all clones of a ticket through at once, and waits for nobody who has ended."""

from __future__ import annotations

import asyncio
import time

import pytest

from copper.model.api import GuestCall, VmEnded
from copper.model.errors import BadInput, CopperError, NotFound, TimedOut
from tests.cluster.fakes import World
from tests.cluster.worlds import Task, begun, forked, still


def synced(world: World, *vms: str, ticket: str = "", timeout_ms: int = 20_000) -> list[Task]:
    """Programs that wait at a barrier: clones without a ticket, the master with it."""
    args = {"ticket": ticket, "timeout_ms": timeout_ms}
    return [begun(world, vm, "sync", **(args if vm.endswith("-0") else {})) for vm in vms]


async def test_a_barrier_lets_all_through_at_once() -> None:
    async with World() as world:
        _, ticket = await forked(world)
        early = synced(world, "a-1", "a-0", "a-3", ticket=ticket)
        await still()
        assert not any(task.done() for task in early)
        last = synced(world, "a-2")
        assert await asyncio.gather(*early, *last) == [{}] * 4
        assert world.core.barriers._barriers[ticket][1].is_empty


async def test_barriers_of_one_ticket_come_one_after_the_other() -> None:
    async with World() as world:
        _, ticket = await forked(world)
        rounds: list[int] = []

        async def program(vm: str) -> None:
            for number in range(20):
                args = {"ticket": ticket, "timeout_ms": 20_000} if vm == "a-0" else {}
                call = GuestCall(vm=vm, call=100 + number, verb="sync", args=args)
                await world.core.calls.answer(call)
                rounds.append(number)

        await asyncio.gather(*(program(vm) for vm in ("a-0", "a-1", "a-2", "a-3")))
        assert rounds == [number for number in range(20) for _ in range(4)]


@pytest.mark.parametrize("how", ["killed", "died", "joined", "host is silent"])
async def test_a_clone_that_ends_is_not_waited_for(how: str) -> None:
    async with World() as world:
        master, ticket = await forked(world)
        waiting = synced(world, "a-0", "a-1", "a-2", ticket=ticket)
        await still()
        if how == "killed":
            await world.call(master, "kill", vmids=[3])
        elif how == "died":
            await world.core.ended(VmEnded(vm="a-3", reason="its QEMU was killed"))
        elif how == "joined":
            await world.call("a-3", "join", status=0)
        else:
            world.host.fail = {"end a-3"}
            with pytest.raises(CopperError):
                await world.call(master, "kill", vmids=[3])
            world.host.fail = set()
        assert await asyncio.gather(*waiting) == [{}] * 3


async def test_a_time_out_says_who_is_missing() -> None:
    async with World() as world:
        master, ticket = await forked(world)
        others = synced(world, "a-2")
        await still()
        with pytest.raises(TimedOut, match="sync: VMs 1 and 3 did not come within 20 ms"):
            await world.call(master, "sync", ticket=ticket, timeout_ms=20)
        with pytest.raises(TimedOut, match="within 0 ms"):
            await world.call(master, "sync", ticket=ticket, timeout_ms=0)
        more = synced(world, "a-1", "a-3")
        await still()
        assert not any(task.done() for task in (*others, *more)), "the caller has left"
        await world.call(master, "sync", ticket=ticket, timeout_ms=20_000)
        assert await asyncio.gather(*others, *more) == [{}] * 3


async def test_a_program_that_goes_away_has_not_come() -> None:
    async with World() as world:
        _, ticket = await forked(world, 1)
        gone = synced(world, "a-1")[0]
        await still()
        gone.cancel()
        caller = synced(world, "a-0", ticket=ticket)[0]
        await still()
        assert not caller.done()
        await asyncio.gather(caller, *synced(world, "a-1"))


async def test_a_ticket_without_clones_is_passed_at_once() -> None:
    async with World() as world:
        master = await world.boot()
        ticket = await world.ticket(master)
        assert await world.call(master, "sync", ticket=ticket, timeout_ms=0) == {}
        await world.call(master, "clone", ticket=ticket)
        await world.call(master, "killall")
        assert await world.call(master, "sync", ticket=ticket, timeout_ms=0) == {}
        own = world.book.vm(master).ticket
        assert await world.call(master, "sync", ticket=own, timeout_ms=0) == {}


async def test_who_may_not_sync() -> None:
    async with World() as world:
        master, ticket = await forked(world)
        await world.boot("b")
        with pytest.raises(NotFound, match="no ticket"):
            await world.call("b-0", "sync", ticket=ticket, timeout_ms=0)
        with pytest.raises(NotFound):
            await world.call(master, "sync", ticket="x", timeout_ms=0)
        with pytest.raises(BadInput, match="the master is no clone"):
            await world.call(master, "sync")
        _, other = await forked(world, 1, "a-1")
        with pytest.raises(NotFound, match="another VM's"):
            await world.call(master, "sync", ticket=other, timeout_ms=0)
        with pytest.raises(BadInput, match="TIMEOUT_MS"):
            await world.call(master, "sync", ticket=ticket, timeout_ms="soon")


async def test_the_barriers_of_two_tickets_are_two() -> None:
    async with World() as world:
        _, first = await forked(world, 1)
        _, second = await forked(world, 1, "a-0")
        _, third = await forked(world, 1, "a-1")
        clones = synced(world, "a-1", "a-2", "a-3")
        await still()
        await world.call("a-0", "sync", ticket=second, timeout_ms=20_000)
        await clones[1]
        assert [task.done() for task in clones] == [False, True, False]
        await world.call("a-1", "sync", ticket=third, timeout_ms=20_000)
        await clones[2]
        assert not clones[0].done()
        await world.call("a-0", "sync", ticket=first, timeout_ms=20_000)
        await clones[0]


async def test_clones_whose_caller_is_gone_wait_for_each_other() -> None:
    async with World() as world:
        await forked(world, 1)
        await forked(world, 2, "a-1")
        waiting = synced(world, "a-2", "a-3")
        await still()
        assert not any(task.done() for task in waiting)
        await world.core.ended(VmEnded(vm="a-1", reason="its QEMU was killed"))
        assert await asyncio.gather(*waiting) == [{}] * 2


async def test_an_answer_that_was_lost_is_given_again() -> None:
    async with World() as world:
        _, ticket = await forked(world, 1)
        await asyncio.gather(*synced(world, "a-0", "a-1", ticket=ticket))
        again = GuestCall(vm="a-1", call=7, verb="sync", args={})
        assert await world.core.calls.answer(again) == {}


async def test_a_barrier_of_32_clones_is_fast_and_leaves_nothing() -> None:
    async with World() as world:
        master, ticket = await forked(world, 32)
        waiting = synced(world, *(f"a-{vmid}" for vmid in range(1, 33)))
        await still()
        began = time.monotonic()
        await world.call(master, "sync", ticket=ticket, timeout_ms=20_000)
        await asyncio.gather(*waiting)
        assert time.monotonic() - began < 0.3
        await world.core.kill("a")
        assert not world.core.barriers._barriers
