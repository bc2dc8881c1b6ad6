"""Tickets that wait for room: what wakes them, whose turn it is, and that none outlives who asked for it."""

from __future__ import annotations

import asyncio

import pytest

from copper.controller.terms import since_boot
from copper.model.errors import Conflict, CopperError, NoRoom, NotFound
from copper.wire import steps
from tests.cluster.fakes import WAIT_S, FakeHost, World, until
from tests.cluster.worlds import clone, quota, three


async def test_a_waiting_ticket_is_woken_by_a_kill_of_another_cluster() -> None:
    async with World(room=3) as world:
        one, two = await world.boot("a"), await world.boot("b")
        await clone(world, two, 1)
        waiting = asyncio.create_task(world.ticket(one, maxcpus=2, timeout_ms=60_000))
        await until(lambda: world.core.tickets.waiting == 1)
        await world.core.kill("b")
        async with asyncio.timeout(WAIT_S):
            ticket = await waiting
        assert world.book.ticket(ticket).vms == 1


async def test_a_waiting_ticket_is_woken_by_a_host_that_measures_more_room() -> None:
    async with World(room=1) as world:
        master = await world.boot()
        waiting = asyncio.create_task(world.ticket(master, maxcpus=2, timeout_ms=60_000))
        await until(lambda: world.core.tickets.waiting == 1)
        world.host.room = 5
        async with asyncio.timeout(WAIT_S):
            await waiting


async def test_a_waiting_ticket_is_woken_by_a_host_that_answers_again() -> None:
    async with World(hosts=three(room=1)) as world:
        world.hosts[1].silent = world.hosts[2].silent = True
        await world.core.hosts.refresh()
        master = await world.boot()
        waiting = asyncio.create_task(world.ticket(master, maxcpus=4, minvms=2, timeout_ms=60_000))
        await until(lambda: world.core.tickets.waiting == 1)
        world.hosts[1].silent = world.hosts[2].silent = False
        async with asyncio.timeout(WAIT_S):
            ticket = await waiting
        assert world.book.ticket(ticket).places == {"h2": 1, "h3": 1}


async def test_a_waiting_ticket_is_woken_by_one_that_expires(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with World(room=2, ticket_expires_s=2.0) as world:
        master = await world.boot()
        await world.ticket(master, maxcpus=2)
        waiting = asyncio.create_task(world.ticket(master, maxcpus=2, timeout_ms=60_000))
        await until(lambda: world.core.tickets.waiting == 1)
        now = since_boot()
        monkeypatch.setattr("copper.controller.tickets.since_boot", lambda: now + 3)
        async with asyncio.timeout(WAIT_S):
            assert await waiting


async def test_an_impatient_clone_does_not_pass_those_who_wait() -> None:
    async with World(room=4) as world:
        one, two = await world.boot("a", owner="ann"), await world.boot("b", owner="bob")
        waiting = asyncio.create_task(world.ticket(one, maxcpus=6, minvms=3, timeout_ms=60_000))
        await until(lambda: world.core.tickets.waiting == 1)
        for vm in (one, two):
            with pytest.raises(NoRoom, match="others wait"):
                await clone(world, vm, 1)
        assert world.host.frozen == set()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await clone(world, two, 1)


@pytest.mark.parametrize("why", ["quota", "impossible"])
async def test_who_waits_for_nothing_of_others_keeps_nobody_from_forking(why: str) -> None:
    host = FakeHost(room=1000, cpus=8)
    async with World(hosts=[host]) as world:
        one, two = await world.boot("a", owner="ann"), await world.boot("b", owner="bob")
        if why == "quota":
            await quota(world, "ann", vms=1)
        asks = {"maxcpus": 4, "minvms": 2} if why == "quota" else {"maxcpus": 400, "minvms": 200}
        waiting = asyncio.create_task(world.ticket(one, **asks, timeout_ms=60_000))
        await until(lambda: world.core.tickets.waiting == 1)
        await asyncio.sleep(0.05)
        assert len(await clone(world, two, 2)) == 2
        assert await world.ticket(two, maxcpus=2)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_of_two_users_the_one_who_holds_less_gets_what_comes_back() -> None:
    async with World(room=6) as world:
        one, two = await world.boot("a", owner="ann"), await world.boot("b", owner="bob")
        await clone(world, one, 4)
        got: list[str] = []

        async def ask(vm: str, who: str) -> None:
            await world.ticket(vm, maxcpus=2, timeout_ms=60_000)
            got.append(who)

        waiting = []
        for vm, who in ((one, "ann"), (one, "ann"), (two, "bob"), (two, "bob")):
            waiting.append(asyncio.create_task(ask(vm, who)))
            await until(lambda: world.core.tickets.waiting == len(waiting))
        for vmid in (1, 2, 3, 4):
            await world.call(one, "kill", vmids=[vmid])
            await until(lambda vmid=vmid: len(got) >= vmid)  # type: ignore[misc]
        # ann holds 4, 3, 2, 2 VMs as these end, bob 1, 2, 3, 3
        assert got[:2] == ["bob", "bob"] and sorted(got[2:]) == ["ann", "ann"]


async def test_a_ticket_that_times_out_says_why_and_leaves_the_line() -> None:
    async with World(room=1) as world:
        master = await world.boot()
        with pytest.raises(NoRoom, match="request-ticket: there is room for 0"):
            await world.ticket(master, timeout_ms=20)
        assert world.core.tickets.waiting == 0
        assert len(world.book.tickets()) == 1


async def test_a_ticket_takes_what_fits_when_its_least_does() -> None:
    async with World(hosts=three(room=2)) as world:
        master = await world.boot()
        ticket = world.book.ticket(await world.ticket(master, maxcpus=101, minvms=5))
        assert (ticket.vms, ticket.cpus) == (5, 10)
        assert ticket.places == {"h1": 1, "h2": 2, "h3": 2}


# whoever asked goes away


async def test_who_goes_away_while_they_wait_gets_no_ticket() -> None:
    async with World(room=1) as world:
        master = await world.boot()
        waiting = asyncio.create_task(world.ticket(master, maxcpus=2, timeout_ms=60_000))
        await until(lambda: world.core.tickets.waiting == 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        world.host.room = 9
        await world.core.hosts.refresh()
        assert world.core.tickets.waiting == 0
        assert len(world.book.tickets()) == 1


@pytest.mark.parametrize("name", ["ticket.placed", "ticket.written"])
async def test_who_goes_away_after_the_grant_leaves_nothing_granted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World() as world:
        master = await world.boot()
        reached = asyncio.Event()

        async def stop(step: str) -> None:
            if step == name:
                reached.set()
                await asyncio.Event().wait()

        monkeypatch.setattr(steps, "hook", stop)
        asking = asyncio.create_task(world.ticket(master, maxcpus=8))
        await reached.wait()
        assert len(world.book.tickets()) == 2
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: len(world.book.tickets()) == 1)
        assert world.core.capacity.owners["root"].vms == 1


async def test_a_ticket_is_taken_back_wherever_its_asker_goes_away() -> None:
    """The asker is cancelled after each number of turns of the loop; never is something kept."""
    for turns in range(40):
        async with World(room=3) as world:
            master = await world.boot()
            asking = asyncio.create_task(world.ticket(master, maxcpus=8))
            for _ in range(turns):
                await asyncio.sleep(0)
            if asking.done():
                return
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            if not asking.cancelled():
                return
            await until(lambda: len(world.book.tickets()) == 1)
            assert world.core.tickets.waiting == 0
            assert len(await clone(world, master, 2)) == 2
    raise AssertionError("a ticket takes more turns than that")


# VMs that end while they ask


async def test_a_vm_that_ends_while_it_waits_gets_no_ticket() -> None:
    async with World(room=3) as world:
        one, two = await world.boot("a"), await world.boot("b")
        await clone(world, two, 1)
        waiting = asyncio.create_task(world.ticket("b-1", maxcpus=4, minvms=2, timeout_ms=60_000))
        await until(lambda: world.core.tickets.waiting == 1)
        await world.core.kill("b")
        with pytest.raises(CopperError):
            async with asyncio.timeout(WAIT_S):
                await waiting
        await until(lambda: world.core.tickets.waiting == 0)
        assert [ticket.holder for ticket in world.book.tickets()] == [0]
        assert len(await clone(world, one, 2)) == 2


@pytest.mark.parametrize("state", ["dead", "suspended"])
async def test_only_a_vm_that_runs_gets_a_ticket(state: str) -> None:
    from copper.model.api import VmEnded

    async with World() as world:
        master = await world.boot()
        if state == "dead":
            await world.core.ended(VmEnded(vm=master, reason="it crashed"))
        else:
            await world.core.suspend("a")
        with pytest.raises(Conflict, match=f"is {state}"):
            await world.ticket(master)


async def test_tickets_of_a_vm_that_ends_go_with_it() -> None:
    from copper.model.api import VmEnded

    async with World() as world:
        master = await world.boot()
        await clone(world, master, 2)
        await world.ticket("a-1", maxcpus=8)
        await world.ticket("a-2", maxcpus=8)
        await world.ticket(master, maxcpus=8)
        assert world.core.capacity.owners["root"].vms == 3 + 3 * 4
        await world.call(master, "kill", vmids=[1])
        assert world.core.capacity.owners["root"].vms == 2 + 2 * 4
        world.host.running.pop("a-2")
        await world.core.ended(VmEnded(vm="a-2", reason="it crashed"))
        assert world.core.capacity.owners["root"].vms == 1 + 4
        await world.core.kill("a")
        assert world.book.tickets() == []
        assert world.core.capacity.owners["root"].vms == 0


async def test_a_vm_that_is_killed_while_it_forks_on_a_ticket_leaves_no_ticket() -> None:
    async with World() as world:
        master = await world.boot()
        await clone(world, master, 1)
        ticket = await world.ticket("a-1", maxcpus=4)
        world.host.gate = asyncio.Event()
        fork = asyncio.create_task(world.call("a-1", "clone", ticket=ticket))
        await world.host.at_gate.wait()
        await world.call(master, "kill", vmids=[1])
        world.host.fail = {"thaw"}
        world.host.gate.set()
        with pytest.raises(CopperError):
            await fork
        world.agree()
        assert world.vmids() == [0]
        assert ticket not in {one.id for one in world.book.tickets()}


async def test_a_ticket_that_is_over_holds_nothing_for_its_vm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with World(room=2) as world:
        master = await world.boot()
        ticket = await world.ticket(master, maxcpus=2)
        now = since_boot()
        monkeypatch.setattr("copper.controller.tickets.since_boot", lambda: now + 301)
        for verb in ("clone", "list-ticket-domains"):
            with pytest.raises(NotFound):
                await world.call(master, verb, ticket=ticket)
        await until(lambda: len(world.book.tickets()) == 1)
        await clone(world, master, 1)
