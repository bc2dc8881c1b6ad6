"""What hosts are told of how the world reaches VMs, and of what VMs reach: at once, again, and never by halves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from copper.model.errors import BadInput, Conflict, CopperError, NotFound, Refused
from copper.model.networks import EVERYWHERE, Attachment, NewForward, NewNetwork
from copper.store.memory import MemoryStore
from tests.cluster.fakes import FakeHost, World, until
from tests.cluster.pools import ALL, POOL, in_force, leases, left, new_cluster, public, public_world


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with public_world() as made:
        yield made


@pytest.mark.parametrize(
    ("networks", "egress", "recorded", "told"),
    [
        ([], None, "none", None),
        (ALL, None, "open", ["0.0.0.0/0", "::/0"]),
        (ALL, "none", "none", []),
        ([], "open", "open", ["0.0.0.0/0", "::/0"]),
        (
            [],
            "192.0.2.0/24, 2001:db8::/32",
            "192.0.2.0/24,2001:db8::/32",
            ["192.0.2.0/24", "2001:db8::/32"],
        ),
    ],
)
async def test_a_way_out_is_open_with_a_public_network_and_none_without(
    world: World,
    networks: list[Attachment],
    egress: str | None,
    recorded: str,
    told: list[str] | None,
) -> None:
    await world.boot(networks=networks, egress=egress)
    assert world.core.cluster("a").egress == recorded
    exposed = world.host.exposed.get("a-0")
    assert (exposed.egress if exposed else None) == told


async def test_egress_that_is_none_is_refused(world: World) -> None:
    for text in ("", "all", "192.0.2.1/24", "192.0.2.0/24,,"):
        with pytest.raises(BadInput, match="egress"):
            await world.core.create("root", new_cluster("a", [], egress=text))


async def test_a_port_leads_to_one_vm_now_and_whenever_it_runs(world: World) -> None:
    master = await world.boot()
    await world.core.create("root", new_cluster("b", []))
    made = await world.core.exposures.forward("a", NewForward(vmid=0, host_port=8080, port=80))
    assert world.host.exposed["a-0"].forwards == [made]
    await world.core.exposures.forward("a", NewForward(vmid=1, host_port=8081, port=80))
    for cluster, says in (("b", "another's"), ("a", "VM 0 of it")):
        with pytest.raises(Conflict, match=f"tcp port 8080 of the hosts is {says}"):
            await world.core.exposures.forward(cluster, NewForward(vmid=1, host_port=8080, port=81))
    await world.core.exposures.forward(
        "b", NewForward(vmid=0, host_port=8080, port=53, protocol="udp")
    )
    await world.call(master, "clone", count=1)
    assert [one.host_port for one in world.host.exposed["a-1"].forwards] == [8081]
    await world.core.suspend("a")
    late = NewForward(vmid=0, host_port=8082, port=82)  # nobody is there to be told
    await world.core.exposures.forward("a", late)
    await world.core.resume("a")
    assert [one.host_port for one in world.host.exposed["a-0"].forwards] == [8080, 8082]
    await world.core.exposures.unforward("a", "tcp", 8082)
    with pytest.raises(NotFound, match="does not lead to virtual cluster 'b'"):
        await world.core.exposures.unforward("b", "tcp", 8080)
    await world.core.exposures.unforward("a", "tcp", 8080)
    assert "a-0" not in world.host.exposed
    await world.core.kill("a")
    await world.core.delete("a", lambda done, parts: None)
    assert world.core.exposures.forwards("a") == []
    await world.core.exposures.forward("b", NewForward(vmid=0, host_port=8081, port=1))


async def test_a_forward_that_its_host_refuses_is_not_there(world: World) -> None:
    await world.boot()
    world.host.fail = {"expose"}
    with pytest.raises(CopperError, match="expose failed"):
        await world.core.exposures.forward("a", NewForward(vmid=0, host_port=8080, port=80))
    world.host.fail = set()
    assert world.core.exposures.forwards("a") == []
    await world.core.exposures.forward("a", NewForward(vmid=0, host_port=8080, port=80))


async def test_a_vm_whose_host_refuses_its_network_is_not_made(world: World) -> None:
    world.host.fail = {"thaw"}
    await world.core.create("root", new_cluster("a", ALL))
    with pytest.raises(CopperError, match="thaw failed"):
        await world.core.boot("a")
    assert (leases(world), left(world)) == ({}, 4)


async def test_a_forward_that_came_while_a_clone_was_made_is_in_force(world: World) -> None:
    master = await world.boot()
    world.host.gate = asyncio.Event()
    cloning = asyncio.create_task(world.call(master, "clone", count=1))
    await world.host.at_gate.wait()
    await world.core.exposures.forward("a", NewForward(vmid=1, host_port=8080, port=80))
    world.host.gate.set()
    await cloning
    assert [one.host_port for one in world.host.exposed["a-1"].forwards] == [8080]


async def test_a_host_that_lost_what_it_was_told_is_told_again() -> None:
    store, host = MemoryStore(), FakeHost()
    host.networks = ["pub"]
    async with World(store=store, hosts=[host]) as one:
        await one.core.networks.create(NewNetwork(name="pub", pool=POOL))
        await one.boot(networks=ALL)
    host.exposed.clear()
    async with World(store=store, hosts=[host]) as two:
        assert in_force(two) == public(two) != {}


# the way out, changed while VMs run


def reached(world: World) -> dict[str, list[str]]:
    """By VM, what of the world its host lets it reach."""
    return {
        vm.name: world.host.exposed[vm.name].egress if vm.name in world.host.exposed else []
        for vm in world.book.vms("a")
    }


async def test_the_way_out_is_changed_for_all_vms_at_once_and_for_those_to_come(
    world: World,
) -> None:
    master = await world.boot(networks=ALL)
    await world.call(master, "clone", count=1)
    assert reached(world) == {"a-0": [*EVERYWHERE], "a-1": [*EVERYWHERE]}
    before = public(world)
    await world.core.exposures.let_out("a", " 192.0.2.0/24, 2001:db8::/32")
    assert world.core.cluster("a").egress == "192.0.2.0/24,2001:db8::/32"
    await world.call(master, "clone", count=1)
    some = ["192.0.2.0/24", "2001:db8::/32"]
    assert reached(world) == {"a-0": some, "a-1": some, "a-2": some}
    await world.core.pause("a")
    await world.core.exposures.let_out("a", "none")
    assert reached(world) == {"a-0": [], "a-1": [], "a-2": []}
    assert in_force(world).items() >= before.items()  # its addresses are another matter
    with pytest.raises(BadInput, match="egress 'all'"):
        await world.core.exposures.let_out("a", "all")
    with pytest.raises(NotFound):
        await world.core.exposures.let_out("b", "none")
    await world.core.kill("a")
    await world.core.boot("a")
    assert reached(world) == {"a-0": []}


async def test_the_way_out_that_is_changed_while_it_is_suspended_is_in_force_when_it_runs(
    world: World,
) -> None:
    await world.boot(networks=ALL)
    await world.core.suspend("a")
    await world.core.exposures.let_out("a", "192.0.2.0/24")
    assert world.host.exposed == {}
    await world.core.resume("a")
    assert reached(world) == {"a-0": ["192.0.2.0/24"]}


async def test_the_way_out_that_is_changed_while_a_clone_is_made_is_the_clones_too(
    world: World,
) -> None:
    master = await world.boot(networks=ALL)
    world.host.gate = asyncio.Event()
    cloning = asyncio.create_task(world.call(master, "clone", count=1))
    await world.host.at_gate.wait()
    await world.core.exposures.let_out("a", "none")
    world.host.gate.set()
    await cloning
    assert reached(world) == {"a-0": [], "a-1": []}


async def test_a_host_that_refuses_the_way_out_leaves_it_for_all_as_it_was(world: World) -> None:
    master = await world.boot(networks=ALL)
    await world.call(master, "clone", count=1)
    world.host.refuse = {"expose a-1"}
    with pytest.raises(Refused, match="expose a-1 is refused"):
        await world.core.exposures.let_out("a", "2001:db8::/32")
    assert world.core.cluster("a").egress == "open"
    assert reached(world) == {"a-0": [*EVERYWHERE], "a-1": [*EVERYWHERE]}
    world.host.refuse = set()
    await world.core.exposures.let_out("a", "none")
    assert reached(world) == {"a-0": [], "a-1": []}


async def test_a_host_that_does_not_answer_is_told_by_its_next_report(world: World) -> None:
    master = await world.boot(networks=ALL)
    await world.call(master, "clone", count=1)
    world.host.fail = {"expose a-0"}
    await world.core.exposures.let_out("a", "none")
    assert reached(world) == {"a-0": [*EVERYWHERE], "a-1": []}
    assert world.core.cluster("a").egress == "none"
    world.host.fail = set()
    await world.core.hosts.refresh()
    await until(lambda: reached(world) == {"a-0": [], "a-1": []})
    await until(lambda: not world.core.exposures.missed)


async def test_a_change_whose_answer_is_lost_is_asked_for_again(world: World) -> None:
    await world.boot(networks=ALL)
    world.host.lose = {"expose"}
    await world.core.exposures.let_out("a", "none")
    assert world.core.exposures.missed == {"a-0"}
    world.host.lose = set()
    await world.core.hosts.refresh()
    await until(lambda: not world.core.exposures.missed)
    world.host.lose = {"expose"}
    await world.core.exposures.let_out("a", "open")
    await world.core.kill("a")
    assert world.core.exposures.missed == set()


async def test_what_is_said_last_holds(world: World) -> None:
    await world.boot(networks=ALL)
    said = ["none", "192.0.2.0/24", "open", "198.51.100.0/24"]
    await asyncio.gather(
        *(world.core.exposures.let_out("a", one) for one in said), return_exceptions=True
    )
    await world.core.exposures.let_out("a", "192.0.2.7/32")
    assert reached(world) == {"a-0": ["192.0.2.7/32"]}
