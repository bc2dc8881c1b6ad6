"""What hosts have and what is written down become the same: at the start, when a host answers again, and later."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from copper.controller.rows import vm_key
from copper.model.api import ThawOrder
from copper.model.errors import CopperError
from copper.wire import steps
from tests.cluster.cuts import Dead
from tests.cluster.fakes import FakeHost, World, until
from tests.cluster.kingdom import Kingdom, quietly, six, states, stop_at
from tests.cluster.worlds import three


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


async def test_a_vm_that_its_host_paused_for_memory_is_one_that_runs() -> None:
    kingdom = Kingdom()
    async with kingdom.world() as world:
        await six(world)
        name = next(iter(kingdom.hosts[0].running))
        kingdom.hosts[0].paused.add(name)
        await world.core.pause("a")
        assert world.book.vm(name).state == "paused"
    kingdom.hosts[0].paused_for = "its host is out of memory"
    async with kingdom.world() as again:
        assert again.book.vm(name).state == "running"


async def test_what_is_stored_for_nobody_is_discarded() -> None:
    kingdom = Kingdom()
    async with kingdom.world() as world:
        await six(world)
    kingdom.hosts[0].stored["b"] = dict(kingdom.hosts[0].running)
    async with kingdom.world() as again:
        assert not any(host.stored for host in kingdom.hosts)
        again.agree()


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
        steps.hook = stop_at("clone.thawed", kingdom.cut)
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
