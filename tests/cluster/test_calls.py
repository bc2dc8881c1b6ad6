"""The verbs of guests that a controller answers, over a host without QEMU."""

from __future__ import annotations

import asyncio
import time

import pytest

from copper.controller.terms import since_boot
from copper.model.errors import BadInput, Conflict, CopperError, NoRoom, NotFound, Refused
from tests.cluster.fakes import World, until


async def test_a_clone_by_count_gets_vmids_that_are_never_used_twice() -> None:
    async with World() as world:
        master = await world.boot()
        cloned = await world.call(master, "clone", count=3)
        assert (cloned["vmid"], cloned["vmids"]) == (0, [1, 2, 3])
        assert cloned["ticket"] == world.book.vm("a-1").ticket
        await world.call(master, "kill", vmids=[3])
        assert (await world.call("a-1", "clone", count=1))["vmids"] == [4]
        assert world.host.running["a-4"].identity.parent == 1
        assert world.host.running["a-4"].call == 7
        world.agree()


async def test_generations_are_numbered_by_the_calls_that_made_them() -> None:
    async with World() as world:
        master = await world.boot()
        await world.call(master, "clone", count=2)
        await world.call("a-1", "clone", count=1)
        await world.call(master, "clone", count=1)
        rows = (await world.call(master, "list"))["vms"]
        assert [(row["vmid"], row["generation"], row["parent"]) for row in rows] == [
            (0, 0, None),
            (1, 1, 0),
            (2, 1, 0),
            (3, 2, 1),
            (4, 3, 0),
        ]


@pytest.mark.parametrize("fault", ["freeze", "prepare", "thaw", "thaw a-2"])
async def test_a_fork_that_fails_leaves_nothing(fault: str) -> None:
    async with World() as world:
        master = await world.boot()
        world.host.fail = {fault}
        with pytest.raises(CopperError, match="as asked"):
            await world.call(master, "clone", count=4)
        world.agree()
        assert world.vmids() == [0]
        world.host.fail = set()
        assert len((await world.call(master, "clone", count=2))["vmids"]) == 2


@pytest.mark.parametrize("fault", ["freeze", "thaw"])
async def test_a_ticket_can_be_used_again_after_a_fork_that_failed(fault: str) -> None:
    async with World() as world:
        master = await world.boot()
        ticket = await world.ticket(master, maxcpus=4)
        world.host.fail = {fault}
        with pytest.raises(CopperError):
            await world.call(master, "clone", ticket=ticket)
        world.host.fail = set()
        assert len((await world.call(master, "clone", ticket=ticket))["vmids"]) == 2
        world.agree()


async def test_a_cluster_that_is_killed_while_it_forks_leaves_nothing() -> None:
    async with World() as world:
        master = await world.boot()
        world.host.gate = asyncio.Event()
        fork = asyncio.create_task(world.call(master, "clone", count=4))
        await world.host.at_gate.wait()
        assert len(world.vmids()) == 5
        killing = asyncio.create_task(world.core.kill("a"))
        with pytest.raises(Conflict, match="killed"):
            await fork
        await killing
        world.agree()
        assert world.vmids() == []


async def test_a_fork_goes_on_when_its_caller_has_gone() -> None:
    async with World() as world:
        master = await world.boot()
        world.host.gate = asyncio.Event()
        fork = asyncio.create_task(world.call(master, "clone", count=4))
        await world.host.at_gate.wait()
        assert len(world.vmids()) == 5
        fork.cancel()
        await asyncio.gather(fork, return_exceptions=True)
        world.host.gate.set()
        await asyncio.gather(*world.core.forks.of("a"))
        assert len(world.host.running) == 5
        world.agree()


async def test_a_ticket_holds_as_many_machines_as_fit() -> None:
    async with World(room=4) as world:  # of which the master has one
        master = await world.boot()
        ticket = await world.ticket(master, maxcpus=100, minvms=2)
        (own, held) = (await world.call(master, "list-tickets"))["tickets"]
        assert own["status"] == "used"
        assert held == {"id": ticket, "status": "granted", "cpus": 6, "vms": 3, "mincpuspervm": 1}
        await until(
            lambda: world.host.prepared == [3]
        )  # its processes are started when it is granted
        assert (await world.call(master, "clone", ticket=ticket))["vmids"] == [1, 2, 3]
        domains = (await world.call(master, "list-ticket-domains", ticket=ticket))["clones"]
        assert domains[0] == {"vmid": 1, "ip": "10.0.0.2", "state": "running"}
        assert world.host.running["a-3"].identity.ticket == ticket


async def test_a_ticket_is_used_once_and_by_who_holds_it() -> None:
    async with World() as world:
        master = await world.boot()
        await world.call(master, "clone", count=1)
        ticket = await world.ticket(master)
        with pytest.raises(NotFound, match="no ticket"):
            await world.call("a-1", "clone", ticket=ticket)
        await world.call(master, "clone", ticket=ticket)
        with pytest.raises(BadInput, match="has been used"):
            await world.call(master, "clone", ticket=ticket)
        with pytest.raises(NotFound):
            await world.call(master, "clone", ticket="00000000-0000-0000-0000-000000000000")


async def test_two_clones_on_one_ticket_have_one_effect() -> None:
    async with World() as world:
        master = await world.boot()
        ticket = await world.ticket(master, maxcpus=4)
        both = [asyncio.create_task(world.call(master, "clone", ticket=ticket)) for _ in range(2)]
        results = await asyncio.gather(*both, return_exceptions=True)
        assert sorted(isinstance(result, BadInput) for result in results) == [False, True]
        assert len(world.vmids()) == 3
        world.agree()


async def test_what_is_promised_is_not_promised_again() -> None:
    async with World(room=5) as world:
        master = await world.boot()
        await world.ticket(master, maxcpus=6)
        with pytest.raises(NoRoom):
            await world.call(master, "clone", count=2)
        with pytest.raises(NoRoom):
            await world.ticket(master, maxcpus=4, minvms=2)
        await world.call(master, "clone", count=1)


async def test_a_ticket_waits_for_room_until_its_time_out() -> None:
    async with World(room=3) as world:
        master = await world.boot()
        await world.call(master, "clone", count=2)
        waiting = asyncio.create_task(world.ticket(master, maxcpus=4, minvms=2, timeout_ms=60_000))
        await asyncio.sleep(0)
        await world.call(master, "killall")
        assert await waiting
        with pytest.raises(NoRoom, match="room for 0"):
            await world.ticket(master, timeout_ms=10)


async def test_an_unused_ticket_expires_and_a_used_one_goes_with_its_last_clone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with World() as world:
        master = await world.boot()
        used = await world.ticket(master, maxcpus=4)
        await world.call(master, "clone", ticket=used)
        late = await world.ticket(master)
        in_time = since_boot()
        monkeypatch.setattr("copper.controller.tickets.since_boot", lambda: in_time + 301)
        with pytest.raises(NotFound):
            await world.call(master, "clone", ticket=late)
        await world.call(master, "kill", vmids=[1])
        held = {row["id"] for row in (await world.call(master, "list-tickets"))["tickets"]}
        assert used in held and late not in held
        await world.call(master, "kill", vmids=[2])
        held = {row["id"] for row in (await world.call(master, "list-tickets"))["tickets"]}
        assert len(held) == 1  # the master's own
        await until(lambda: len(world.book.tickets()) == 1)  # and the late one's room is back


@pytest.mark.parametrize("jump", [-86400, -3600, 3600, 86400])
async def test_a_clock_that_jumps_changes_no_ticket(
    jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World() as world:
        master = await world.boot()
        ticket = await world.ticket(master)
        before = time.time()
        monkeypatch.setattr(time, "time", lambda: before + jump)
        await asyncio.sleep(0.1)
        assert await world.call(master, "clone", ticket=ticket)


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ((0, 1, 1, 0), "MAXCPUS"),
        ((1, 0, 1, 0), "MINVMS"),
        ((1, 1, 0, 0), "MINCPUSPERVM"),
        ((1, 1, 1, -1), "TIMEOUT_MS"),
        ((2, 2, 2, 0), "MAXCPUS"),
        (("x", 1, 1, 0), "MAXCPUS"),
        ((True, 1, 1, 0), "MAXCPUS"),
    ],
)
async def test_a_wrong_number_is_named(numbers: tuple[int, int, int, int], says: str) -> None:
    async with World() as world:
        master = await world.boot()
        with pytest.raises(BadInput, match=says):
            await world.ticket(master, *numbers)


async def test_clones_with_more_processors_than_their_parent_cannot_be_had() -> None:
    async with World() as world:
        master = await world.boot()
        with pytest.raises(NoRoom, match="has 2, not 4"):
            await world.ticket(master, maxcpus=8, mincpus=4)
        with pytest.raises(NoRoom, match="not 1"):
            await world.ticket(master, maxcpus=1)


async def test_kill_takes_clones_only() -> None:
    async with World() as world:
        master = await world.boot()
        await world.call(master, "clone", count=3)
        for vmids, error in (([0], Refused), ([9], NotFound), ([], BadInput), (["1"], BadInput)):
            with pytest.raises(error):
                await world.call(master, "kill", vmids=vmids)
        with pytest.raises(NotFound):
            await world.call(master, "kill", vmids=[1, 9])
        assert world.vmids() == [0, 1, 2, 3]
        assert await world.call(master, "kill", vmids=[1, 3]) == {"vmids": [1, 3]}
        assert world.vmids() == [0, 2]
        world.agree()


async def test_a_generation_is_killed_whole_and_killall_takes_descendants() -> None:
    async with World() as world:
        master = await world.boot()
        await world.call(master, "clone", count=2)
        await world.call("a-1", "clone", count=2)
        await world.call("a-3", "clone", count=1)
        assert await world.call(master, "kill-generation", vmid=4) == {"vmids": [3, 4]}
        # a descendant whose own parent has ended is one all the same
        assert await world.call("a-1", "killall") == {"vmids": [5]}
        assert await world.call(master, "killall") == {"vmids": [1, 2]}
        world.agree()


async def test_other_clusters_are_not_seen() -> None:
    async with World() as world:
        one, two = await world.boot("a"), await world.boot("b")
        await world.call(one, "clone", count=1)
        ticket = await world.ticket(one)
        assert len((await world.call(two, "list"))["vms"]) == 1
        with pytest.raises(NotFound):
            await world.call(two, "list-ticket-domains", ticket=ticket)
        with pytest.raises(NotFound):
            await world.call(two, "kill", vmids=[1])


async def test_stat_tells_of_a_vm_and_its_generation() -> None:
    async with World() as world:
        master = await world.boot()
        await world.call(master, "clone", count=2)
        rows = (await world.call("a-1", "stat"))["vms"]
        assert [row["vmid"] for row in rows] == [1, 2]
        assert rows[0] == {"vmid": 1, "nominal": 256 << 20, "shared": 2, "own": 1}


async def test_an_unknown_verb_lists_those_that_are_known() -> None:
    async with World() as world:
        master = await world.boot()
        with pytest.raises(BadInput, match="known are: clone, join"):
            await world.call(master, "fly")
