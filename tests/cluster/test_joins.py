"""sync and join: barriers of tickets, and what clones leave for the VM that cloned them."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any

import pytest

from copper.controller import joins
from copper.controller.rows import Joined
from copper.model.api import GuestCall, VmEnded
from copper.model.errors import (
    BadInput,
    Conflict,
    CopperError,
    NoRoom,
    NotFound,
    Refused,
    TimedOut,
)
from copper.store.memory import MemoryStore
from tests.cluster.fakes import FakeHost, World, until

Task = asyncio.Task[dict[str, Any]]


async def forked(world: World, clones: int = 3, caller: str = "") -> tuple[str, str]:
    """A master, or another VM, that has cloned: its name and the ticket."""
    vm = caller or await world.boot()
    ticket = await world.ticket(vm, maxcpus=2 * clones, minvms=clones)
    await world.call(vm, "clone", ticket=ticket)
    return vm, ticket


def begun(world: World, vm: str, verb: str, **args: Any) -> Task:
    return asyncio.create_task(world.call(vm, verb, **args))


def synced(world: World, *vms: str, ticket: str = "", timeout_ms: int = 20_000) -> list[Task]:
    """Programs that wait at a barrier: clones without a ticket, the master with it."""
    args = {"ticket": ticket, "timeout_ms": timeout_ms}
    return [begun(world, vm, "sync", **(args if vm.endswith("-0") else {})) for vm in vms]


async def still() -> None:
    """Lets all that can go on do so."""
    for _ in range(50):
        await asyncio.sleep(0)


def results(world: World) -> list[tuple[int, int | None]]:
    return sorted((row.vmid, row.status) for row in world.book.all("joined", Joined))


# sync


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


# join


async def test_clones_that_join_at_once_do_not_wait_for_each_others_writes() -> None:
    class Slow(MemoryStore):
        held: asyncio.Event | None = None
        asked = 0

        async def commit(self, **of_it: Any) -> int:
            self.asked += 1
            if self.held is not None:
                await self.held.wait()
            return await super().commit(**of_it)

    store = Slow()
    async with World(store=store) as world:
        await forked(world, 8)
        store.held, store.asked = asyncio.Event(), 0
        joining = [begun(world, f"a-{vmid}", "join", status=vmid) for vmid in range(1, 9)]
        await still()
        assert store.asked == 8, "the store makes one transaction of what is asked meanwhile"
        store.held.set()
        await asyncio.gather(*joining)
        assert store.asked == 9, "that they are gone is written for all"
        assert results(world) == [(vmid, vmid) for vmid in range(1, 9)]
        assert [vm.name for vm in world.book.vms("a")] == ["a-0"]


async def test_what_clones_leave_comes_to_who_cloned_them() -> None:
    async with World() as world:
        master, ticket = await forked(world)
        waiting = begun(world, master, "join-wait", ticket=ticket)
        await world.call("a-2", "join", status=7, report=True, file="AAEC")
        await world.call("a-1", "join")
        await still()
        assert not waiting.done()
        assert world.vmids() == [0, 3], "its room is free when it has joined"
        await world.call(master, "kill", vmids=[3])
        assert (await waiting)["clones"] == [
            {"vmid": 1, "status": 0, "file": None},
            {"vmid": 2, "status": 7, "file": "AAEC"},
            {"vmid": 3, "status": -1, "file": None},
        ]
        world.agree()


async def test_it_stays_until_it_is_collected() -> None:
    async with World() as world:
        master, ticket = await forked(world, 1)
        await world.call("a-1", "join", status=3)
        assert [one.id for one in world.book.tickets()] == [world.book.vm(master).ticket]
        for _ in range(2):  # an answer may be lost
            answer = await world.call(master, "join-wait", ticket=ticket, timeout_ms=0)
            assert answer == {"clones": [{"vmid": 1, "status": 3, "file": None}]}
        await world.call(master, "join-collected", ticket=ticket)
        await world.call(master, "join-collected", ticket=ticket)
        assert results(world) == []
        with pytest.raises(NotFound, match="join: there is no ticket"):
            await world.call(master, "join-wait", ticket=ticket, timeout_ms=0)


async def test_a_clone_that_does_not_report_is_not_told_of() -> None:
    async with World() as world:
        master, ticket = await forked(world, 2)
        await world.call("a-1", "join", report=False, status=9, file="AAEC")
        await world.call("a-2", "join", status=1)
        answer = await world.call(master, "join-wait", ticket=ticket)
        assert answer == {"clones": [{"vmid": 2, "status": 1, "file": None}]}
        await world.call(master, "join-collected", ticket=ticket)
        assert results(world) == []


@pytest.mark.parametrize("how", ["killed", "died", "generation"])
async def test_a_clone_that_did_not_join_is_minus_one(how: str) -> None:
    async with World() as world:
        master, ticket = await forked(world, 2)
        waiting = begun(world, master, "join-wait", ticket=ticket, timeout_ms=20_000)
        await still()
        if how == "killed":
            await world.call(master, "killall")
        elif how == "generation":
            await world.call(master, "kill-generation", vmid=2)
        else:
            for vm in ("a-1", "a-2"):
                world.host.running.pop(vm)
                await world.core.ended(VmEnded(vm=vm, reason="its QEMU was killed"))
        assert [(row["vmid"], row["status"]) for row in (await waiting)["clones"]] == [
            (1, -1),
            (2, -1),
        ]


async def test_one_that_its_host_ends_last_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World() as world:
        master, ticket = await forked(world)
        end, gate = world.host.end, asyncio.Event()

        async def slowly(name: str) -> None:
            if name == "a-2":
                await gate.wait()
            await end(name)

        monkeypatch.setattr(world.host, "end", slowly)
        killing = begun(world, master, "kill", vmids=[2])
        await still()
        await world.call("a-1", "join")
        await world.call("a-3", "join")
        gate.set()
        await killing
        waited = await world.call(master, "join-wait", ticket=ticket)
        assert [row["status"] for row in waited["clones"]] == [0, -1, 0]


async def test_a_time_out_says_which_clones_have_not_ended() -> None:
    async with World() as world:
        master, ticket = await forked(world)
        await world.call("a-2", "join")
        with pytest.raises(TimedOut, match="join: VMs 1 and 3 did not end within 10 ms"):
            await world.call(master, "join-wait", ticket=ticket, timeout_ms=10)
        assert results(world) == [(2, 0)]


async def test_a_ticket_without_clones_has_nothing_to_wait_for() -> None:
    async with World() as world:
        master = await world.boot()
        ticket = await world.ticket(master)
        for one in (ticket, world.book.vm(master).ticket):
            assert await world.call(master, "join-wait", ticket=one) == {"clones": []}


async def test_who_may_not_join() -> None:
    async with World() as world:
        master, ticket = await forked(world)
        await world.boot("b")
        with pytest.raises(Refused, match="the master is no clone"):
            await world.call(master, "join", status=0)
        for vm in ("b-0", "a-1"):
            with pytest.raises(NotFound):
                await world.call(vm, "join-wait", ticket=ticket, timeout_ms=0)
            await world.call(vm, "join-collected", ticket=ticket)
        assert world.vmids() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"status": 256}, "expected a status from 0 to 255, got 256"),
        ({"status": -1}, "expected a status"),
        ({"status": True}, "expected a status"),
        ({"status": "0"}, "expected a status"),
        ({"report": 1}, "report"),
        ({"file": "?"}, "expected base64"),
        ({"file": 5}, "expected base64"),
        ({"file": "é"}, "expected base64"),
        ({"file": base64.b64encode(bytes(49_153)).decode()}, "at most 49152 bytes, got 49153"),
    ],
)
async def test_what_a_clone_cannot_leave_is_named_and_it_lives(
    args: dict[str, Any], says: str
) -> None:
    async with World() as world:
        await forked(world, 1)
        with pytest.raises(BadInput, match=says):
            await world.call("a-1", "join", **args)
        assert world.vmids() == [0, 1]
        assert results(world) == []


async def test_files_that_nobody_collects_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "FILES_MOST", 100_000)
    async with World() as world:
        master, ticket = await forked(world, 2)
        most = base64.b64encode(bytes(49_152)).decode()
        await world.call("a-1", "join", file=most)
        with pytest.raises(NoRoom, match="join: VM 0 has"):
            await world.call("a-2", "join", file=most)
        await world.call("a-2", "join", status=1)
        await world.call(master, "join-wait", ticket=ticket)
        await world.call(master, "join-collected", ticket=ticket)
        assert world.core.results.files("a", 0) == 0
        assert not world.core.results._files and not world.core.results._rows


async def test_results_that_nobody_collects_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "KEPT_MOST", 20)
    async with World() as world:
        master = await world.boot()
        for _ in range(20):
            await world.call(master, "clone", count=4)
            await world.call(master, "killall")
            assert len(results(world)) <= 20
        ticket = (await world.call(master, "clone", count=4))["ticket"]
        await world.call(master, "killall")
        assert len((await world.call(master, "join-wait", ticket=ticket))["clones"]) == 4


async def test_a_long_answer_comes_in_pages() -> None:
    async with World() as world:
        master, ticket = await forked(world, 9)
        for vmid in range(1, 10):
            file = base64.b64encode(bytes([vmid]) * 40_000).decode()
            await world.call(f"a-{vmid}", "join", status=vmid, file=file)
        seen: list[dict[str, Any]] = []
        args: dict[str, Any] = {}
        while True:
            page = await world.call(master, "join-wait", ticket=ticket, timeout_ms=0, **args)
            assert len(str(page)) < 250_000
            seen += page["clones"]
            if "next" not in page:
                break
            args = {"after": page["next"]}
        assert [row["status"] for row in seen] == list(range(1, 10))
        assert base64.b64decode(seen[8]["file"]) == b"\t" * 40_000
        with pytest.raises(BadInput, match="after"):
            await world.call(master, "join-wait", ticket=ticket, after="x")


async def test_results_wait_for_a_controller_that_begins_again() -> None:
    store, host = MemoryStore(), FakeHost()
    async with World(store=store, hosts=[host]) as world:
        _, ticket = await forked(world)
        await world.call("a-1", "join", status=1, file="AAEC")
        await world.call("a-2", "join", report=False)
    host.running.pop("a-3")  # while nobody looks
    async with World(store=store, hosts=[host]) as world:
        answer = await world.call("a-0", "join-wait", ticket=ticket, timeout_ms=20_000)
        assert answer["clones"] == [
            {"vmid": 1, "status": 1, "file": "AAEC"},
            {"vmid": 3, "status": -1, "file": None},
        ]


async def test_a_controller_that_is_killed_when_a_clone_has_joined_ends_it() -> None:
    store, host = MemoryStore(), FakeHost()
    async with World(store=store, hosts=[host]) as world:
        _, ticket = await forked(world, 1)
        host.fail = {"end"}
        with pytest.raises(CopperError):
            await world.call("a-1", "join", status=5)
        assert world.book.vm("a-1").state == "ending"
    host.fail = set()
    async with World(store=store, hosts=[host]) as world:
        answer = await world.call("a-0", "join-wait", ticket=ticket, timeout_ms=20_000)
        assert answer == {"clones": [{"vmid": 1, "status": 5, "file": None}]}
        world.agree()


async def test_a_caller_that_was_suspended_still_gets_them() -> None:
    async with World() as world:
        master, ticket = await forked(world)
        await world.call("a-1", "join", status=1)
        asked = begun(world, master, "join-wait", ticket=ticket)
        await still()
        asked.cancel()  # its host agent lets go of what a suspended VM asked
        await world.core.suspend("a")
        with pytest.raises(Conflict, match="suspended"):
            await world.call("a-2", "join", status=2)
        await world.core.resume("a")
        again = begun(world, master, "join-wait", ticket=ticket)
        await world.call("a-2", "join", status=2)
        await world.call("a-3", "join", status=3)
        assert [row["status"] for row in (await again)["clones"]] == [1, 2, 3]


async def test_a_clone_that_joins_while_all_is_paused_waits_for_that() -> None:
    async with World() as world:
        await forked(world)
        closed = world.core.forks.closed["a"] = asyncio.Event()
        joining = begun(world, "a-1", "join", status=4)
        await still()
        assert world.book.vm("a-1").state == "running"
        del world.core.forks.closed["a"]
        closed.set()
        await joining
        assert results(world) == [(1, 4)]


async def test_a_clone_that_joins_before_its_siblings_run_waits_for_them() -> None:
    async with World() as world:
        master = await world.boot()
        ticket = await world.ticket(master, maxcpus=6, minvms=3)
        world.host.gate = asyncio.Event()
        forking = begun(world, master, "clone", ticket=ticket)
        await world.host.at_gate.wait()
        joining = begun(world, "a-1", "join", status=4)
        await still()
        assert not joining.done()
        world.host.gate.set()
        assert (await forking)["vmids"] == [1, 2, 3]
        await joining
        assert (results(world), world.vmids()) == ([(1, 4)], [0, 2, 3])


async def test_a_clone_that_forks_before_its_siblings_run_waits_for_them() -> None:
    async with World() as world:
        master = await world.boot()
        world.host.gate = asyncio.Event()
        first = begun(world, master, "clone", count=2)
        await world.host.at_gate.wait()
        second = begun(world, "a-1", "clone", count=2)
        await still()
        assert not second.done()
        assert len(world.host.frozen) == 1
        world.host.gate.set()
        assert [(await one)["vmids"] for one in (first, second)] == [[1, 2], [3, 4]]
        assert world.book.vm("a-4").lineage == [0, 1]
        world.agree()


async def test_a_clone_that_forks_while_its_own_fork_fails_is_gone() -> None:
    async with World() as world:
        master = await world.boot()
        world.host.gate = asyncio.Event()
        world.host.fail = {"thaw a-2"}
        first = begun(world, master, "clone", count=2)
        await world.host.at_gate.wait()
        second = begun(world, "a-1", "clone", count=2)
        await still()
        world.host.gate.set()
        for one in (first, second):
            with pytest.raises(CopperError):
                await one
        assert world.vmids() == [0]
        world.agree()


async def test_a_clone_that_joins_while_its_fork_fails_is_gone() -> None:
    async with World() as world:
        master = await world.boot()
        world.host.gate = asyncio.Event()
        world.host.fail = {"thaw a-2"}
        forking = begun(world, master, "clone", count=3)
        await world.host.at_gate.wait()
        joining = begun(world, "a-1", "join", status=4)
        await still()
        world.host.gate.set()
        assert isinstance((await asyncio.gather(forking, return_exceptions=True))[0], CopperError)
        assert isinstance((await asyncio.gather(joining, return_exceptions=True))[0], CopperError)
        assert (results(world), world.vmids()) == ([], [0])


async def test_results_go_with_who_could_collect_them() -> None:
    async with World() as world:
        await forked(world, 2)
        await forked(world, 2, "a-1")
        await world.call("a-3", "join", status=1)
        assert results(world) == [(3, 1)]
        await world.call("a-0", "kill", vmids=[1])
        assert results(world) == [(1, -1)]
        await world.call("a-4", "join", status=1)  # its caller is gone: nobody is told
        assert results(world) == [(1, -1)]
        await world.core.kill("a")
        assert results(world) == []
        assert not world.core.results._rows


async def test_results_go_with_a_caller_that_dies_and_a_new_master_has_none() -> None:
    async with World() as world:
        await forked(world, 2)
        await world.call("a-1", "join", status=1)
        world.host.running.pop("a-0")
        await world.core.ended(VmEnded(vm="a-0", reason="its QEMU was killed"))
        assert results(world) == []
        await world.call("a-2", "join", status=1)
        await world.core.kill("a")
        await world.core.boot("a")
        assert results(world) == []


async def test_a_fork_that_fails_leaves_no_results() -> None:
    async with World() as world:
        master = await world.boot()
        world.host.fail = {"thaw a-2"}
        with pytest.raises(CopperError):
            await world.call(master, "clone", count=4)
        assert results(world) == []


async def test_a_used_ticket_is_listed_until_its_last_clone_ended() -> None:
    async with World() as world:
        master, ticket = await forked(world, 2)

        async def listed() -> bool:
            tickets = (await world.call(master, "list-tickets"))["tickets"]
            return ticket in [one["id"] for one in tickets]

        await world.call("a-1", "join")
        assert await listed()
        domains = await world.call(master, "list-ticket-domains", ticket=ticket)
        assert [one["vmid"] for one in domains["clones"]] == [2]
        await world.call("a-2", "join")
        assert not await listed()
        held = world.core.capacity.hosts["fake"]
        assert (held.vms, held.cpus) == (1, 2)


async def test_32_clones_are_collected_and_free_within_two_seconds() -> None:
    async with World(room=33) as world:
        master, ticket = await forked(world, 32)
        began = time.monotonic()
        waiting = begun(world, master, "join-wait", ticket=ticket)
        await asyncio.gather(
            *(world.call(f"a-{vmid}", "join", status=vmid) for vmid in range(1, 33))
        )
        assert [row["status"] for row in (await waiting)["clones"]] == list(range(1, 33))
        assert time.monotonic() - began < 2
        await world.ticket(master, maxcpus=64, minvms=32, timeout_ms=2000)


async def test_a_host_that_does_not_answer_keeps_a_clone_from_having_ended() -> None:
    async with World() as world:
        master, ticket = await forked(world, 1)
        world.host.fail = {"end a-1"}
        with pytest.raises(CopperError):
            await world.call("a-1", "join", status=2)
        with pytest.raises(TimedOut, match="VM 1 did not end"):
            await world.call(master, "join-wait", ticket=ticket, timeout_ms=0)
        world.host.fail = set()
        answer = await world.call(master, "join-wait", ticket=ticket, timeout_ms=20_000)
        assert answer["clones"][0]["status"] == 2
        await until(lambda: world.vmids() == [0])
