"""join: clones end by themselves, and the VM that cloned them hears what each of them says."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any

import pytest

from copper.model.api import VmEnded
from copper.model.errors import BadInput, CopperError, NotFound, Refused, TimedOut
from copper.store.memory import MemoryStore
from tests.cluster.fakes import World, until
from tests.cluster.worlds import begun, forked, results, still


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
