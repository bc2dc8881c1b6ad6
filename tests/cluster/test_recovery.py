"""A controller that starts over what another left: nothing is lost, and what was begun is finished or undone."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from copper.controller.rows import cluster_key, ticket_key, vm_key
from copper.model.api import Vm, VmEnded
from copper.store.sqlite import SqliteStore
from copper.wire import steps
from tests.cluster.cuts import Dead
from tests.cluster.fakes import until
from tests.cluster.kingdom import Kingdom, quietly, six, states, stop_at
from tests.cluster.worlds import three


async def test_all_that_was_acknowledged_is_there_again() -> None:
    kingdom = Kingdom()
    async with kingdom.world() as world:
        await six(world)
        unused = await world.ticket("a-1", maxcpus=6)
        used = await world.ticket("a-2", maxcpus=6)
        await world.call("a-2", "clone", ticket=used)
        before = {
            "vms": world.book.vms(),
            "tickets": sorted(world.book.tickets(), key=lambda one: one.id),
            "clusters": world.book.clusters(),
        }
        sums = world.core.capacity.owners["ann"]
    async with kingdom.world() as again:
        assert again.book.vms() == before["vms"]
        assert sorted(again.book.tickets(), key=lambda one: one.id) == before["tickets"]
        assert again.book.clusters() == before["clusters"]
        assert again.core.capacity.owners["ann"] == sums
        again.agree()
        assert len((await again.call("a-1", "clone", ticket=unused))["vmids"]) == 3
        assert (await again.call("a-0", "clone", count=1))["vmids"] == [12]


async def test_it_is_there_again_on_disk_too(tmp_path: Path) -> None:
    hosts = three()
    for turn in range(3):
        store = SqliteStore(tmp_path / "state.db")
        await store.open()
        async with Kingdom(hosts, store).world() as world:
            if turn == 0:
                await six(world)
            ticket = await world.ticket("a-1", maxcpus=4)
            assert len(world.book.vms()) == 6 + 2 * turn
            await world.call("a-1", "clone", ticket=ticket)
            world.agree()
        await store.close()


@pytest.mark.parametrize("name", ["suspend.planned", "suspend.stored"])
async def test_a_suspend_that_was_begun_is_finished(name: str) -> None:
    kingdom = Kingdom()
    async with quietly(kingdom.world()) as world:
        await six(world)
        await kingdom.killed_at(name, world, "suspend")
    async with kingdom.world() as again:
        assert states(again) == ["suspended"] and again.book.cluster("a").intent == ""
        assert not any(host.running for host in kingdom.hosts)
        await again.core.resume("a")
        again.agree()
        assert len(again.book.vms("a")) == 6


@pytest.mark.parametrize("name", ["resume.planned", "resume.thawed"])
async def test_a_resume_that_was_begun_is_finished(name: str) -> None:
    kingdom = Kingdom()
    async with quietly(kingdom.world()) as world:
        await six(world)
        await world.core.suspend("a")
        await kingdom.killed_at(name, world, "resume")
    async with kingdom.world() as again:
        assert states(again) == ["running"] and again.book.cluster("a").intent == ""
        assert not any(host.stored for host in kingdom.hosts)
        again.agree()


@pytest.mark.parametrize("verb", ["suspend", "resume"])
async def test_what_was_begun_and_cannot_be_finished_is_undone(verb: str) -> None:
    kingdom = Kingdom()
    async with quietly(kingdom.world()) as world:
        await six(world)
        if verb == "resume":
            await world.core.suspend("a")
        await kingdom.killed_at(f"{verb}.planned", world, verb)
    kingdom.hosts[1].fail = {verb}
    async with kingdom.world() as again:
        assert states(again) == ["running" if verb == "suspend" else "suspended"]
        assert again.book.cluster("a").intent == ""
        again.agree()
        kingdom.hosts[1].fail = set()
        await getattr(again.core, verb)("a")
        again.agree()


async def test_a_suspend_that_one_host_did_and_another_cannot_is_undone_on_both() -> None:
    kingdom = Kingdom()
    async with quietly(kingdom.world()) as world:
        await six(world)
        await kingdom.killed_at("suspend.stored", world, "suspend")
    kingdom.hosts[2].silent = True
    async with kingdom.world() as again:
        there = {vm.host for vm in again.book.vms("a") if vm.state == "running"}
        assert there == {"h1", "h2", "h3"}
        assert len(kingdom.hosts[0].running) == 2 and "a" in kingdom.hosts[2].stored
        await asyncio.sleep(0.2)
        assert states(again) == ["running"]
        kingdom.hosts[2].silent = False
        await until(lambda: len(kingdom.hosts[2].running) == 2)
        again.agree()


@pytest.mark.parametrize("name", ["kill.forks-ended", "kill.ended"])
@pytest.mark.parametrize("state", ["running", "suspended"])
async def test_a_kill_that_was_begun_is_finished_or_was_not_begun(name: str, state: str) -> None:
    kingdom = Kingdom()
    async with quietly(kingdom.world()) as world:
        await six(world)
        if state == "suspended":
            await world.core.suspend("a")
        await kingdom.killed_at(name, world, "kill")
    async with kingdom.world() as again:
        await until(lambda: "ending" not in states(again))
        assert states(again) == ([state] if name == "kill.forks-ended" else [])
        again.agree()
        await again.core.kill("a")
        assert all(not host.running and not host.stored for host in kingdom.hosts)
        assert again.book.tickets() == []


async def test_an_intent_for_a_cluster_whose_vms_all_ended_is_forgotten() -> None:
    kingdom = Kingdom()
    async with kingdom.world() as world:
        master = await world.boot("a")
        kingdom.hosts[0].running.clear()
        await world.core.ended(VmEnded(vm=master, reason="it crashed"))
        row = world.book.cluster("a")
        await world.book.commit(
            put={cluster_key("a"): row.model_copy(update={"intent": "suspend"})}
        )
    async with kingdom.world() as again:
        assert again.book.cluster("a").intent == ""
        await again.core.boot("a")


# tickets


async def test_tickets_of_another_boot_begin_anew_and_expire_then() -> None:
    kingdom = Kingdom()
    async with kingdom.world() as world:
        master = await world.boot("a")
        ticket = world.book.ticket(await world.ticket(master))
        old = ticket.model_copy(update={"boot_id": "another", "expires_at": 5.0})
        await world.book.commit(put={ticket_key(old.id): old})
    async with kingdom.world() as again:
        await until(lambda: again.book.ticket(ticket.id).boot_id == ticket.boot_id)
        expires = again.book.ticket(ticket.id).expires_at
        assert expires is not None and expires > 100
        await again.call("a-0", "clone", ticket=ticket.id)


async def test_a_ticket_that_is_used_while_all_begin_anew_harms_no_other() -> None:
    kingdom = Kingdom()
    async with kingdom.world() as world:
        master = await world.boot("a")
        ids = [await world.ticket(master, maxcpus=2) for _ in range(6)]
        for each in ids:
            old = world.book.ticket(each).model_copy(update={"boot_id": "another"})
            await world.book.commit(put={ticket_key(each): old})
    async with kingdom.world() as again:
        await asyncio.gather(*(again.core.release_ticket(each) for each in ids[:3]))
        await again.call("a-0", "clone", ticket=ids[3])
        boot = again.book.ticket(ids[3]).boot_id
        await until(lambda: all(again.book.ticket(each).boot_id != "another" for each in ids[4:]))
        assert boot
        again.agree()


async def test_a_ticket_whose_holder_has_ended_is_not_given_back() -> None:
    kingdom = Kingdom()
    async with quietly(kingdom.world()) as world:
        master = await world.boot("a")
        await world.call(master, "clone", count=1)
        ticket = await world.ticket("a-1", maxcpus=4)
        steps.hook = stop_at("clone.thawed", kingdom.cut)
        try:
            with contextlib.suppress(Dead):
                await world.call("a-1", "clone", ticket=ticket)
        finally:
            steps.hook = None
    entry = await kingdom.store.get(vm_key("a-1"))
    assert entry is not None
    dead = Vm.model_validate(entry.value).model_copy(update={"state": "dead"})
    await kingdom.store.commit(put={vm_key("a-1"): dead.model_dump(mode="json")})
    async with kingdom.world() as again:
        assert ticket not in {one.id for one in again.book.tickets()}
        assert again.core.capacity.owners["root"].vms == 1
        assert sorted(again.vmids()) == [0, 1]
