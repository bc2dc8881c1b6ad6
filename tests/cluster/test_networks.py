"""Public networks: who has which address, and since when; what tickets promise; what hosts are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from copper.controller.rows import lease_key, vm_key
from copper.model.api import Vm, VmEnded
from copper.model.errors import BadInput, Conflict, CopperError, NoRoom, NotFound
from copper.model.networks import Attachment, Lease, NewNetwork
from copper.store.memory import MemoryStore
from tests.cluster.fakes import FakeHost, World, until
from tests.cluster.pools import (
    ALL,
    MASTER,
    POOL,
    in_force,
    leases,
    left,
    new_cluster,
    public,
    public_world,
)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with public_world() as made:
        yield made


async def test_each_vm_has_an_address_from_its_first_row_to_its_last(world: World) -> None:
    master = await world.boot(networks=ALL)
    assert public(world) == {"a-0": ["198.51.100.1"]}
    await world.call(master, "clone", count=2)
    assert public(world) == {f"a-{n}": [f"198.51.100.{n + 1}"] for n in range(3)}
    assert leases(world) == {f"198.51.100.{n + 1}": f"a-{n}" for n in range(3)}
    assert in_force(world) == public(world)
    assert [one.vm for one in world.core.networks.leases("pub")] == ["a-0", "a-1", "a-2"]
    assert left(world) == 1
    await world.call(master, "kill", vmids=[1])
    assert left(world) == 2
    assert in_force(world) == public(world) == {"a-0": ["198.51.100.1"], "a-2": ["198.51.100.3"]}
    await world.call(master, "clone", count=2)
    # the one that was given back comes last
    assert public(world)["a-3"] == ["198.51.100.4"]
    assert public(world)["a-4"] == ["198.51.100.2"]
    await world.core.kill("a")
    assert (leases(world), in_force(world), left(world)) == ({}, {}, 4)
    assert (await world.core.boot("a")).public == ["198.51.100.3"]


async def test_a_network_for_the_master_alone(world: World) -> None:
    await world.core.networks.create(NewNetwork(name="six", pool=["2001:db8::/64"]))
    master = await world.boot(networks=[*MASTER, Attachment(name="six")])
    await world.call(master, "clone", count=2)
    assert public(world) == {
        "a-0": ["198.51.100.1", "2001:db8::1"],
        "a-1": ["2001:db8::2"],
        "a-2": ["2001:db8::3"],
    }
    assert (left(world), left(world, "six")) == (3, 2**32)
    assert [one.network for one in world.host.exposed["a-0"].addresses] == ["pub", "six"]


async def test_a_pool_with_no_address_left_refuses_with_the_reason(world: World) -> None:
    master = await world.boot(networks=ALL)
    with pytest.raises(NoRoom, match="network pub has 3 addresses left, not 4"):
        await world.call(master, "clone", count=4)
    with pytest.raises(NoRoom, match="network pub has 3 addresses left, not 4"):
        await world.ticket(master, maxcpus=20, minvms=4)
    assert (len(public(world)), left(world)) == (1, 3)
    await world.call(master, "clone", count=3)
    assert left(world) == 0
    await world.core.create("root", new_cluster("b", ALL))
    with pytest.raises(NoRoom, match="network pub has 0 addresses left, not 1"):
        await world.core.boot("b")
    assert world.book.vms("b") == []
    other = await world.boot("c")  # who wants none has all room
    await world.call(other, "clone", count=4)
    assert public(world, "c") == {}


async def test_a_pool_of_ipv6_with_no_address_left_refuses_with_the_reason(world: World) -> None:
    pool = ["2001:db8::1-2001:db8::2", "198.51.100.64/26"]  # there is more of the other kind
    await world.core.networks.create(NewNetwork(name="six", pool=pool))
    master = await world.boot(networks=[Attachment(name="six")])
    assert [one.mode for one in world.host.exposed[master].addresses] == ["nat", "routed"]
    with pytest.raises(NoRoom, match="network six has 1 addresses left, not 2"):
        await world.call(master, "clone", count=2)
    with pytest.raises(NoRoom, match="network six has 1 addresses left, not 2"):
        await world.ticket(master, maxcpus=20, minvms=2)
    assert (len(public(world)), left(world, "six")) == (1, 1)
    await world.call(master, "clone", count=1)
    assert left(world, "six") == 0


async def test_a_ticket_promises_addresses_as_it_promises_room(world: World) -> None:
    master = await world.boot(networks=ALL)
    ticket = await world.ticket(master, maxcpus=200)
    row = world.book.ticket(ticket)
    assert (row.vms, row.networks) == (3, ["pub"])
    assert left(world) == 0
    with pytest.raises(NoRoom, match="network pub has 0 addresses left, not 1"):
        await world.call(master, "clone", count=1)
    with pytest.raises(Conflict, match="network pub is in use"):
        await world.core.networks.delete("pub")
    world.fail_thaws(True)
    with pytest.raises(CopperError, match="thaw failed"):
        await world.call(master, "clone", ticket=ticket)
    world.fail_thaws(False)
    assert (leases(world), left(world)) == ({"198.51.100.1": "a-0"}, 0)  # promised again
    await world.call(master, "clone", ticket=ticket)
    assert len(leases(world)) == 4
    await world.core.kill("a")
    assert left(world) == 4


async def test_a_ticket_that_is_given_back_or_over_promises_nothing(world: World) -> None:
    master = await world.boot(networks=ALL)
    await world.core.release_ticket(await world.ticket(master, maxcpus=200))
    assert left(world) == 3
    await world.ticket(master, maxcpus=200)
    assert left(world) == 0
    world.later(301)
    await until(lambda: left(world) == 3)
    world.later(0)


async def test_who_waits_for_an_address_is_served_when_one_comes_back(world: World) -> None:
    master = await world.boot(networks=ALL)
    await world.call(master, "clone", count=3)
    waits = asyncio.create_task(world.ticket(master, maxcpus=4, minvms=2, timeout_ms=60_000))
    await until(lambda: world.core.tickets.waiting == 1)
    other = await world.boot("b")
    await world.call(other, "clone", count=2)  # nobody else is held up
    await world.ticket(other)
    await world.call(master, "kill", vmids=[1])
    with pytest.raises(NoRoom, match="others wait"):  # nor is who waits passed
        await world.call(master, "clone", count=1)
    with pytest.raises(NoRoom, match="others wait for them"):
        await world.ticket(master, maxcpus=2)
    assert not waits.done()
    await world.call(master, "kill", vmids=[2])
    assert world.book.ticket(await waits).vms == 2
    assert left(world) == 0


async def test_what_no_pool_could_ever_have_holds_back_nobody(world: World) -> None:
    master = await world.boot(networks=ALL)
    waits = asyncio.create_task(world.ticket(master, maxcpus=200, minvms=5, timeout_ms=60_000))
    await until(lambda: world.core.tickets.waiting == 1)
    await world.call(master, "clone", count=1)
    await world.ticket(master, maxcpus=2)
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)


async def test_a_vm_that_dies_has_no_address_any_more(world: World) -> None:
    await world.boot(networks=ALL)
    del world.host.running["a-0"], world.host.exposed["a-0"]
    await world.core.ended(VmEnded(vm="a-0", reason="it crashed"))
    assert (world.book.vm("a-0").public, leases(world), left(world)) == ([], {}, 4)


async def test_what_is_suspended_keeps_its_addresses(world: World) -> None:
    master = await world.boot(networks=ALL)
    await world.call(master, "clone", count=1)
    before = public(world)
    await world.core.suspend("a")
    assert (public(world), in_force(world), left(world)) == (before, {}, 2)
    with pytest.raises(Conflict, match="network pub is in use"):
        await world.core.networks.delete("pub")
    await world.core.resume("a")
    assert in_force(world) == public(world) == before
    await world.core.suspend("a")
    await world.core.kill("a")
    assert (leases(world), left(world)) == ({}, 4)


async def test_an_address_is_free_once_its_end_is_written(world: World) -> None:
    master = await world.boot(networks=ALL)
    await world.call(master, "clone", count=3)
    store = world.book.store
    real, gate, at_gate = store.commit, asyncio.Event(), asyncio.Event()

    async def slow(**given: Any) -> int:
        at_gate.set()
        await gate.wait()
        return await real(**given)

    store.commit = slow  # type: ignore[method-assign]
    ending = world.book.submit(
        delete=[vm_key("a-3"), lease_key("198.51.100.4")],
    )
    await at_gate.wait()
    assert left(world) == 0  # the store may still take it back
    store.commit = real  # type: ignore[method-assign]
    gate.set()
    await ending
    assert left(world) == 1


async def test_a_lease_that_is_written_is_never_written_over(world: World) -> None:
    """Not even where it is of a network that is not there, and so is in no sum."""
    there = Lease(address="198.51.100.1", network="gone", vm="z-0", cluster="z")
    await world.book.commit(put={lease_key(there.address): there})
    await world.core.create("root", new_cluster("a", ALL))
    with pytest.raises(Conflict, match=r"leases/198\.51\.100\.1 has changed"):
        await world.core.boot("a")
    assert world.book.all("leases", Lease) == [there]
    assert (await world.core.boot("a")).public == ["198.51.100.2"]


async def test_leases_survive_the_controller(world: World) -> None:
    store, host = MemoryStore(), FakeHost()
    host.networks = ["pub"]
    async with World(store=store, hosts=[host]) as one:
        await one.core.networks.create(NewNetwork(name="pub", pool=POOL))
        master = await one.boot(networks=ALL)
        await one.call(master, "clone", count=1)
        await one.ticket(master, maxcpus=2)
        before = public(one)
    async with World(store=store, hosts=[host]) as two:
        assert public(two) == before == in_force(two)
        assert left(two) == 1
        await two.call("a-0", "clone", count=1)
        assert len(set(leases(two))) == 3
        await two.core.kill("a")
        assert left(two) == 4


async def test_vms_go_where_their_network_is() -> None:
    here, there = FakeHost(name="here", fetches=True), FakeHost(name="there", fetches=True)
    there.networks = ["pub"]
    async with World(hosts=[here, there]) as world:
        await world.core.networks.create(NewNetwork(name="pub", pool=POOL))
        for name, networks in (("a", ALL), ("b", MASTER)):
            assert (await world.boot(name, networks=networks, placement="spread")) in there.running
        await world.call("a-0", "clone", count=2)
        await world.call("b-0", "clone", count=2)
        assert {"a-1", "a-2"} <= there.running.keys()
        assert {"b-1", "b-2"} & here.running.keys()  # clones without an address go anywhere
        assert world.core.networks.show("pub").hosts == ["there"]


# networks themselves


async def test_networks_are_made_once_and_share_no_address(world: World) -> None:
    shown = world.core.networks.show("pub")
    assert (shown.pool, shown.mode, shown.size, shown.left) == (POOL, "nat", 4, 4)
    for name, pool, error, says in (
        ("pub", ["203.0.113.9"], Conflict, "network 'pub' exists"),
        ("two", ["198.51.100.0/24"], Conflict, "network pub has addresses"),
        ("two", ["nonsense"], BadInput, "nonsense"),
        ("no name", ["203.0.113.9"], BadInput, "is not a name"),
    ):
        with pytest.raises(error, match=says):
            await world.core.networks.create(NewNetwork(name=name, pool=pool))
    with pytest.raises(BadInput, match="bridge"):
        new = NewNetwork(name="two", pool=["203.0.113.9"], bridge="a b")
        await world.core.networks.create(new)
    assert [one.name for one in world.core.networks.all()] == ["pub"]


async def test_a_network_that_is_named_is_not_deleted(world: World) -> None:
    await world.boot(networks=ALL)
    for says in ("in use: a-0 have addresses", "in use by a"):
        with pytest.raises(Conflict, match=says):
            await world.core.networks.delete("pub")
        await world.core.kill("a")
    await world.core.delete("a", lambda done, parts: None)
    await world.core.networks.delete("pub")
    with pytest.raises(NotFound, match="no network 'pub'"):
        world.core.networks.show("pub")
    with pytest.raises(NotFound, match="no network 'pub'"):
        await world.core.create("root", new_cluster("a", ALL))
    with pytest.raises(BadInput, match="given twice"):
        await world.core.create("root", new_cluster("a", [*ALL, *MASTER]))


# the audit


async def test_leases_and_addresses_that_do_not_agree_are_found_and_mended(world: World) -> None:
    core = world.core
    master = await world.boot(networks=ALL)
    await world.call(master, "clone", count=1)
    assert await core.audit(False) == []
    gone = Lease(address="198.51.100.4", network="pub", vm="a-9", cluster="a")
    await world.book.commit(put={lease_key(gone.address): gone}, delete=[lease_key("198.51.100.2")])
    host_has = world.host.exposed.pop("a-0")
    says = {one.name: one.says for one in await core.audit(False)}
    assert says["198.51.100.4"] == "it is given to VM a-9, which is not there"
    assert says["198.51.100.2"] == "VM a-1 has it, and it is not given"
    mended = {one.name for one in await core.audit(True) if one.mended}
    assert {"198.51.100.4", "198.51.100.2"} <= mended
    assert leases(world) == {"198.51.100.1": "a-0", "198.51.100.2": "a-1"}
    assert left(world) == 2
    assert world.host.exposed["a-0"] == host_has
    assert await core.audit(False) == []


async def test_an_address_that_two_have_is_said_and_stays(world: World) -> None:
    master = await world.boot(networks=ALL)
    await world.call(master, "clone", count=1)
    twin: Vm = world.book.vm("a-1").model_copy(update={"public": ["198.51.100.1"]})
    await world.book.commit(put={vm_key("a-1"): twin}, delete=[lease_key("198.51.100.2")])
    await core_told(world, "a-1")
    (found,) = await world.core.audit(True)
    assert (found.thing, found.name) == ("lease", "198.51.100.1")
    assert found.says == "VM a-1 has it, and a-0 as well"
    assert (found.mend, found.mended) == ("", False)


async def core_told(world: World, vm: str) -> None:
    """The host is as the rows are."""
    await world.core.exposures.tell(world.book.vm(vm))
