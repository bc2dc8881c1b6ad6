"""A controller that starts over what another left, and hosts that come back: nothing is lost, nothing is twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from copper.controller.rows import cluster_key, ticket_key, vm_key
from copper.model.api import ThawOrder, Vm, VmEnded
from copper.model.errors import CopperError
from copper.store.contract import Store
from copper.store.memory import MemoryStore
from copper.store.sqlite import SqliteStore
from copper.wire import steps
from tests.cluster.cuts import Cut, Dead
from tests.cluster.fakes import FakeHost, World, until


def three(room: int = 1000) -> list[FakeHost]:
    return [FakeHost(room, name, fetches=True) for name in ("h1", "h2", "h3")]


class Kingdom:
    """A store and hosts that outlive their controllers."""

    def __init__(self, hosts: list[FakeHost] | None = None, store: Store | None = None) -> None:
        self.hosts = hosts or three()
        self.store: Store = store or MemoryStore()
        self.cut = Cut()

    def world(self) -> World:
        """A new controller; what the one before still does reaches nothing."""
        self.cut.kill()
        self.cut = Cut()
        world = World(store=self.cut.store(self.store), hosts=self.hosts)
        for host in self.hosts:
            world.core.hosts.add(host.name, self.cut.host(host))
        return world

    async def killed_at(self, name: str, world: World, verb: str, nth: int = 1) -> None:
        """Does a verb to virtual cluster a until a step is reached, and cuts the controller off there."""
        left = nth

        async def hook(step: str) -> None:
            nonlocal left
            if step == name:
                left -= 1
                if left == 0:
                    self.cut.kill()
            if self.cut.dead.is_set():
                raise Dead

        steps.hook = hook
        try:
            doing = asyncio.create_task(getattr(world.core, verb)("a"))
            await asyncio.wait({doing})
            outcome = (await asyncio.gather(doing, return_exceptions=True))[0]
            assert self.cut.dead.is_set(), f"{name} is not reached: {outcome}"
        finally:
            steps.hook = None


@contextlib.asynccontextmanager
async def quietly(world: World):  # type: ignore[no-untyped-def]
    """A world that may be cut off before it is closed."""
    with contextlib.suppress(Dead):
        async with world:
            yield world


async def six(world: World) -> None:
    master = await world.boot("a", placement="spread", owner="ann")
    await world.call(master, "clone", count=5)


def states(world: World, name: str = "a") -> list[str]:
    return sorted({vm.state for vm in world.book.vms(name)})


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


def called(name: str, orders: dict[str, ThawOrder]) -> ThawOrder:
    """A VM like those, of another name."""
    order = next(iter(orders.values()))
    return order.model_copy(update={"identity": order.identity.model_copy(update={"name": name})})


async def test_vms_that_are_in_no_book_are_ended() -> None:
    kingdom = Kingdom()
    async with kingdom.world() as world:
        await six(world)
        orders = dict(kingdom.hosts[0].running)
    kingdom.hosts[1].running |= {"x-1": called("x-1", orders), **orders}
    kingdom.hosts[0].frozen.add("an image that nobody goes on with")
    async with kingdom.world() as again:
        again.agree()
        assert len(again.book.vms()) == 6


async def test_vms_that_ended_while_nobody_looked_are_dead() -> None:
    kingdom = Kingdom()
    async with kingdom.world() as world:
        await six(world)
        held = await world.ticket("a-1")
    for host in kingdom.hosts:
        host.running.pop("a-1", None)
    async with kingdom.world() as again:
        vm = again.book.vm("a-1")
        assert vm.state == "dead" and vm.reason
        assert held not in {ticket.id for ticket in again.book.tickets()}
        again.agree()


async def test_a_vm_that_is_paused_on_its_host_is_paused() -> None:
    kingdom = Kingdom()
    async with kingdom.world() as world:
        await six(world)
    name = next(iter(kingdom.hosts[0].running))
    kingdom.hosts[0].paused.add(name)
    async with kingdom.world() as again:
        assert again.book.vm(name).state == "paused"
        await again.core.pause("a")
        await again.core.unpause("a")
        assert states(again) == ["running"]


async def test_what_is_stored_for_nobody_is_discarded() -> None:
    kingdom = Kingdom()
    async with kingdom.world() as world:
        await six(world)
    kingdom.hosts[0].stored["b"] = dict(kingdom.hosts[0].running)
    async with kingdom.world() as again:
        assert not any(host.stored for host in kingdom.hosts)
        again.agree()


# hosts that do not answer at the start


async def test_a_host_that_does_not_answer_at_the_start_loses_nothing() -> None:
    kingdom = Kingdom()
    async with kingdom.world() as world:
        await six(world)
        ticket = await world.ticket("a-0", maxcpus=6)
    kingdom.hosts[2].silent = True
    async with kingdom.world() as again:
        assert states(again) == ["running"] and len(again.book.vms()) == 6
        assert again.core.capacity.hosts["h3"].vms >= 2
        assert again.core.capacity.room("h3") is None
        assert ticket in {one.id for one in again.book.tickets()}
        kingdom.hosts[2].running.popitem()  # one ends there, and nobody hears of it
        kingdom.hosts[2].silent = False
        await until(lambda: "dead" in states(again))
        again.agree()
        assert len(again.book.vms()) == 6


async def test_vms_of_nobody_on_a_host_that_comes_back_are_ended() -> None:
    kingdom = Kingdom()
    async with kingdom.world() as world:
        await six(world)
    bad = kingdom.hosts[2]
    bad.running["x-7"] = called("x-7", bad.running)
    bad.silent = True
    async with kingdom.world() as again:
        bad.silent = False
        await until(lambda: "x-7" not in bad.running)
        again.agree()


async def test_a_fork_that_was_begun_on_a_host_that_does_not_answer_is_undone_when_it_does() -> (
    None
):
    kingdom = Kingdom(three(room=3))
    async with quietly(kingdom.world()) as world:
        master = await world.boot("a")
        ticket = await world.ticket(master, maxcpus=8)
        steps.hook = _stop_at("clone.thawed", kingdom.cut)
        try:
            with contextlib.suppress(Dead):
                await world.call(master, "clone", ticket=ticket)
        finally:
            steps.hook = None
    assert len(kingdom.hosts[1].running) == 2
    kingdom.hosts[1].silent = True
    async with kingdom.world() as again:
        left = [vm for vm in again.book.vms() if vm.vmid]
        assert {(vm.state, vm.host) for vm in left} == {("ending", "h2")} and len(left) == 2
        assert again.core.capacity.hosts["h2"].vms == 2
        kingdom.hosts[1].silent = False
        await until(lambda: again.vmids() == [0])
        again.agree()
        assert (
            again.core.capacity.owners["root"].vms
            == sum(ticket.vms for ticket in again.book.tickets() if ticket.status == "granted") + 1
        )


def _stop_at(name: str, cut: Cut) -> Callable[[str], Awaitable[None]]:
    async def hook(step: str) -> None:
        if step == name:
            cut.kill()
        if cut.dead.is_set():
            raise Dead

    return hook


async def test_a_vm_on_a_host_that_is_no_longer_known_stays_where_it_is() -> None:
    kingdom = Kingdom()
    async with kingdom.world() as world:
        await six(world)
        gone = next(vm for vm in world.book.vms("a") if vm.host == "h3")
        # one was begun there, too
        begun = gone.model_copy(update={"name": "a-9", "vmid": 9, "state": "starting"})
        await world.book.commit(put={vm_key("a-9"): begun})
    without = Kingdom(kingdom.hosts[:2], kingdom.store)
    async with without.world() as again:
        assert again.book.vm(gone.name).state == "running"
        assert again.book.vm("a-9").state == "ending"
        with pytest.raises(CopperError, match="h3"):
            await again.core.kill("a")
        assert {vm.host for vm in again.book.vms("a")} == {"h3"}


# while the controller runs


async def test_an_end_that_was_not_heard_is_seen_in_the_next_reports() -> None:
    async with World(hosts=three()) as world:
        await six(world)
        ticket = await world.ticket("a-4")
        next(host for host in world.hosts if "a-4" in host.running).running.pop("a-4")
        await until(lambda: world.book.vm("a-4").state == "dead")
        assert ticket not in {one.id for one in world.book.tickets()}
        world.agree()


async def test_what_is_under_way_is_not_taken_for_what_was_lost() -> None:
    """Forks and kills with slow hosts, while reports come all the time."""

    class Slow(FakeHost):
        async def thaw(self, order):  # type: ignore[no-untyped-def]
            await asyncio.sleep(0.15)
            status = await super().thaw(order)
            await asyncio.sleep(0.15)
            return status

        async def end(self, name: str) -> None:
            await asyncio.sleep(0.15)
            await super().end(name)
            await asyncio.sleep(0.15)

        async def suspend(self, cluster: str, vms: list[str]) -> None:
            await super().suspend(cluster, vms)
            await asyncio.sleep(0.3)

        async def resume(self, cluster: str) -> None:
            await super().resume(cluster)
            await asyncio.sleep(0.3)

    async with World(hosts=[Slow(name=f"h{n}", fetches=True) for n in range(2)]) as world:
        master = await world.boot("a", placement="spread")
        await world.call(master, "clone", count=3)
        await world.core.suspend("a")
        await world.core.resume("a")
        await world.call(master, "kill", vmids=[1, 2])
        assert world.vmids() == [0, 3]
        world.agree()


async def test_reconcile_of_many_vms_reads_each_host_once() -> None:
    hosts = [FakeHost(name=f"h{number:03}", fetches=True) for number in range(50)]
    kingdom = Kingdom(hosts)
    asked: list[str] = []
    async with kingdom.world() as world:
        master = await world.boot("a", placement="spread")
        await world.call(master, "clone", count=500)

    for host in hosts:
        found = host.vms

        async def counted(found=found, name=host.name):  # type: ignore[no-untyped-def]
            asked.append(name)
            return await found()

        host.vms = counted  # type: ignore[method-assign]
    async with kingdom.world() as again:
        assert sorted(asked) == [host.name for host in hosts]
        again.agree()


async def test_an_end_that_comes_late_does_not_end_the_next_master() -> None:
    """A host that answers again is told to end what another has ended, and booted anew, meanwhile."""
    async with World() as world:
        master = await world.boot("a")
        old = world.book.vm(master)
        await world.core.kill("a")
        new = await world.core.boot("a")
        late = old.model_copy(update={"state": "ending"})
        await world.core.endings.end([late])
        await world.core.endings.undo([late])
        assert world.book.vm(master) == new
        assert len(world.book.tickets()) == 1
        world.agree()


# tickets of another boot of the host


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


# the row of a VM that ended while it was begun


async def test_a_ticket_whose_holder_has_ended_is_not_given_back() -> None:
    kingdom = Kingdom()
    async with quietly(kingdom.world()) as world:
        master = await world.boot("a")
        await world.call(master, "clone", count=1)
        ticket = await world.ticket("a-1", maxcpus=4)
        steps.hook = _stop_at("clone.thawed", kingdom.cut)
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
