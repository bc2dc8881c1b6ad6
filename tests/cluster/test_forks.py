"""Forks over many hosts: where clones go, what they reserve, and what is left when a host fails."""

from __future__ import annotations

import asyncio
import collections
from typing import Any

import pytest

from copper.model.api import Requirements
from copper.model.errors import BadInput, Conflict, CopperError, NoRoom
from copper.wire import steps
from tests.cluster.fakes import FakeHost, World, until
from tests.cluster.worlds import begun, clone, still, three

MIB = 1 << 20


def on(world: World) -> dict[str, int]:
    """How many VMs run on each host."""
    return {host.name: len(host.running) for host in world.hosts}


async def test_a_fork_stays_near_its_parent_and_goes_on_where_there_is_room() -> None:
    async with World(hosts=three(room=4)) as world:
        master = await world.boot()
        home = world.book.vm(master).host
        await clone(world, master, 3)
        assert on(world)[home] == 4
        await clone(world, master, 6)
        assert on(world) == collections.Counter(h1=4, h2=4, h3=2)
        world.agree()
        far = world.hosts[1].running["a-4"]
        assert (far.source, far.frozen) == (home, world.hosts[2].running["a-8"].frozen)
        assert world.hosts[0].running["a-1"].source == ""
        with pytest.raises(NoRoom, match="room for 2, not for 3"):
            await clone(world, master, 3)


async def test_a_fork_of_a_fork_is_near_that_one() -> None:
    async with World(hosts=three(room=2)) as world:
        master = await world.boot()
        await clone(world, master, 2)
        other = world.book.vm("a-2").host
        assert other != world.book.vm(master).host
        await clone(world, "a-2", 1)
        assert world.book.vm("a-3").host == other
        assert world.book.vm("a-3").lineage == [0, 2]


async def test_pack_fills_and_spread_evens_out() -> None:
    async with World(hosts=three()) as world:
        await clone(world, await world.boot("p", placement="pack"), 8)
        assert sorted(on(world).values()) == [0, 0, 9]
        await world.core.kill("p")
        await clone(world, await world.boot("s", placement="spread"), 8)
        assert on(world) == {"h1": 3, "h2": 3, "h3": 3}
        world.agree()


async def test_requirements_hold_for_boot_and_for_every_fork() -> None:
    hosts = three(room=4)
    hosts[1].tags, hosts[2].tags = ["ssd"], ["ssd", "gpu"]
    hosts[2].networks, hosts[2].storage = ["dmz"], ["nfs"]
    async with World(hosts=hosts) as world:
        master = await world.boot("a", requires=Requirements(tags=["ssd"]))
        await clone(world, master, 7)
        assert on(world) == {"h1": 0, "h2": 4, "h3": 4}
        with pytest.raises(NoRoom, match="no tag ssd"):
            await clone(world, master, 1)
        await world.core.kill("a")
        wants = Requirements(networks=["dmz"], storage=["nfs"], tags=["gpu"])
        await clone(world, await world.boot("b", requires=wants), 3)
        assert on(world) == {"h1": 0, "h2": 0, "h3": 4}
        with pytest.raises(NoRoom, match="no network moon"):
            await world.boot("c", requires=Requirements(networks=["moon"]))


async def test_a_host_that_cannot_fetch_takes_no_fork_of_another() -> None:
    hosts = three(room=3)
    hosts[1].fetches = False
    async with World(hosts=hosts) as world:
        master = await world.boot()
        await clone(world, master, 5)
        assert on(world) == {"h1": 3, "h2": 0, "h3": 3}
        with pytest.raises(NoRoom, match="cannot fetch"):
            await clone(world, master, 1)


async def test_processors_are_given_out_up_to_the_ratio() -> None:
    host = FakeHost(cpus=3)
    host.cpu_ratio = 2.5  # 7 virtual processors, 3 VMs of 2
    async with World(hosts=[host]) as world:
        master = await world.boot()
        await clone(world, master, 2)
        with pytest.raises(NoRoom, match="no processors left"):
            await clone(world, master, 1)
        host.cpu_ratio = 4.0
        await world.core.hosts.refresh()
        ticket = await world.ticket(master, maxcpus=100)
        assert world.book.ticket(ticket).vms == 3


async def test_the_guaranteed_class_reserves_all_and_the_shared_one_what_is_expected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # room for 24 × 32 MiB: three VMs of 256 MiB whole
    async with World(room=24) as world:
        world.host.own = 0
        master = await world.boot("g", memory_class="guaranteed")
        assert world.book.vm(master).reserved_bytes == 256 * MIB
        await clone(world, master, 2)
        assert world.host.running["g-1"].reserved_bytes == 256 * MIB
        with pytest.raises(NoRoom, match="256 MiB each"):
            await clone(world, master, 1)
        await world.core.kill("g")
        monkeypatch.setattr(world.core.learning, "expected", lambda image, nominal: 48 * MIB)
        shared = await world.boot("s")
        assert len(await clone(world, shared, 15)) == 15
        assert world.book.vm("s-3").reserved_bytes == 48 * MIB
        with pytest.raises(NoRoom, match="no memory left"):
            await clone(world, shared, 1)


async def test_what_vms_wrote_is_no_longer_promised_but_taken() -> None:
    async with World(room=10) as world:
        master = await world.boot()
        await clone(world, master, 4)
        world.host.own = 64 * MIB  # twice what was expected of each
        await world.core.hosts.refresh()
        room = world.core.capacity.room("fake")
        assert room is not None and room.memory == 0
        with pytest.raises(NoRoom, match="no memory left"):
            await clone(world, master, 1)


async def test_a_ticket_over_hosts_is_used_where_it_was_placed() -> None:
    async with World(hosts=three(room=3)) as world:
        master = await world.boot()
        ticket = await world.ticket(master, maxcpus=12)
        places = world.book.ticket(ticket).places
        assert places == {"h1": 2, "h2": 3, "h3": 1}
        await world.call(master, "clone", ticket=ticket)
        assert on(world) == {"h1": 3, "h2": 3, "h3": 1}
        here = collections.Counter(vm.host for vm in world.book.vms("a") if vm.vmid)
        assert here == places
        world.agree()


@pytest.mark.parametrize("fault", ["thaw", "thaw a-4", "images"])
@pytest.mark.parametrize("host", [1, 2])
async def test_a_fork_that_fails_on_one_host_leaves_nothing_on_any(fault: str, host: int) -> None:
    async with World(hosts=three(room=3)) as world:
        master = await world.boot()
        ticket = await world.ticket(master, maxcpus=14)
        world.hosts[host].fail = {fault}
        before = world.book.ticket(ticket)
        try:
            await world.call(master, "clone", ticket=ticket)
        except CopperError:
            assert world.vmids() == [0]
            after = world.book.ticket(ticket)
            assert (after.status, after.places) == ("granted", before.places)
        world.agree()
        world.hosts[host].fail = set()
        if world.vmids() == [0]:
            await world.call(master, "clone", ticket=ticket)
        assert len(world.vmids()) == 8


async def test_a_clone_whose_answer_is_lost_is_ended_all_the_same() -> None:
    async with World(hosts=three(room=3)) as world:
        master = await world.boot()
        world.hosts[1].lose = {"thaw"}
        with pytest.raises(CopperError, match="lost"):
            await clone(world, master, 4)
        world.agree()
        assert on(world) == {"h1": 1, "h2": 0, "h3": 0}


async def test_a_host_that_cannot_end_a_clone_keeps_its_room_until_it_answers() -> None:
    async with World(hosts=three(room=3)) as world:
        master = await world.boot()
        bad = world.hosts[1]
        bad.lose, bad.fail = {"thaw"}, {"end"}
        with pytest.raises(CopperError):
            await clone(world, master, 4)
        ending = [vm for vm in world.book.vms() if vm.state == "ending"]
        assert {vm.host for vm in ending} == {"h2"} and len(ending) == 2
        assert world.core.capacity.hosts["h2"].vms == 2
        assert world.core.capacity.hosts["h1"].vms == 1
        assert on(world)["h2"] == 2  # nobody knows whether they run: they do
        with pytest.raises(Conflict):
            await world.core.delete("a")
        bad.fail, bad.lose = set(), set()
        await until(lambda: world.vmids() == [0])
        assert world.core.capacity.hosts["h2"].vms == 0
        world.agree()
        assert len(await clone(world, master, 8)) == 8


async def test_a_kill_that_a_host_cannot_do_is_done_when_it_answers_again() -> None:
    async with World(hosts=three(room=3)) as world:
        master = await world.boot()
        await clone(world, master, 8)
        world.hosts[2].silent = True
        with pytest.raises(CopperError, match="does not answer"):
            await world.core.kill("a")
        left = world.book.vms("a")
        assert {(vm.host, vm.state) for vm in left} == {("h3", "ending")}
        assert world.core.cluster("a").state == "defined"
        with pytest.raises(Conflict):
            await world.core.boot("a")
        world.hosts[2].silent = False
        await until(lambda: not world.book.vms("a"))
        world.agree()
        await world.core.boot("a")


async def test_limits_of_a_host_travel_with_every_order() -> None:
    async with World(hosts=three(room=2)) as world:
        master = await world.boot()
        await clone(world, master, 3)
        assert {
            name: order.reserved_bytes
            for host in world.hosts
            for name, order in host.running.items()
        } == {f"a-{n}": 32 * MIB for n in range(4)}


@pytest.mark.parametrize("count", [None, 0])
async def test_a_fork_into_nothing_is_refused_before_anything_is_frozen(count: int | None) -> None:
    async with World() as world:
        master = await world.boot()
        frozen: list[str] = []

        async def freeze(name: str) -> Any:
            frozen.append(name)
            raise CopperError("it was asked to freeze")

        world.host.freeze = freeze  # type: ignore[method-assign]
        with pytest.raises(BadInput):
            await world.core.clone(master, count=count)
        assert frozen == []


# clones that do something before their siblings run


async def test_a_clone_that_is_killed_before_it_runs_takes_its_fork_with_it() -> None:
    async with World() as world:
        master = await world.boot()
        world.host.gate = asyncio.Event()
        fork = asyncio.create_task(clone(world, master, 3))
        await world.host.at_gate.wait()
        killing = asyncio.create_task(world.call(master, "kill", vmids=[2]))
        begun = {"a-1", "a-3"}
        await until(lambda: {vm.name for vm in world.book.vms() if vm.state == "starting"} == begun)
        world.host.gate.set()
        with pytest.raises(CopperError):
            await fork
        await killing
        world.agree()
        assert world.vmids() == [0]


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


async def test_a_fork_that_is_ended_while_its_names_are_being_written_leaves_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached, on = asyncio.Event(), asyncio.Event()

    async def stop(name: str) -> None:
        if name == "clone.reserved":
            reached.set()
            await on.wait()

    async with World() as world:
        master = await world.boot()
        before = world.book.tickets()
        monkeypatch.setattr(steps, "hook", stop)
        fork = begun(world, master, "clone", count=3)
        await reached.wait()
        await still()
        assert world.vmids() == [0, 1, 2, 3] and not world.host.frozen  # nobody stands still for it
        (working,) = world.core.forks.of("a")
        working.cancel()
        await still()
        on.set()
        with pytest.raises(Conflict):
            await fork
        assert world.vmids() == [0]
        assert world.book.tickets() == before
        assert not world.host.frozen
        world.agree()
