"""What agents leave in the kernel, and find there: a new one puts it right, and an audit sees what somebody changed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from copper.net import netlink, routes
from copper.net.netlink import Netlink
from copper.net.networks import Networks
from copper.net.nft import Nft
from tests.unit.places import (
    HOST,
    ONE,
    THREE,
    TWO,
    Places,
    all_places,
    exposure,
    why_not,
    within,
)

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "runs")


@pytest.fixture
async def places() -> AsyncIterator[Places]:
    async with all_places() as there:
        yield there


async def test_a_new_agent_puts_right_what_an_earlier_one_left(places: Places) -> None:
    await places.plug("a", 0, 1)
    await places.plug("b", 0)
    there = {("a", 0): ONE, ("a", 1): TWO, ("b", 0): THREE}
    for (cluster, vmid), address in there.items():
        await places.networks.expose(cluster, vmid, exposure(cluster, vmid, address, bridge="br0"))
    listener = places.listen(places.vm("a", 0))
    client = places.connect(places.neighbour, ONE)
    server, _ = listener.accept()
    places.sockets.append(server)
    places.networks.close()  # as the end of its process does
    later = places.networks = Networks(places.instance, places.host)
    assert later.exposed() == {
        "a": {0: f"{ONE} nat -; egress none", 1: f"{TWO} nat -; egress none"},
        "b": {0: f"{THREE} nat -; egress none"},
    }
    for vmid in (0, 1):
        has = exposure("a", vmid, there["a", vmid], bridge="br0") if not vmid else None
        later.adopt("a", vmid, has)
    await later.clear()
    assert later.exposed() == {"a": {0: f"{ONE} nat br0; egress none"}}
    client.sendall(b"still")
    assert server.recv(5) == b"still"
    places.reaches(places.neighbour, ONE, listener)
    places.listen(places.vm("a", 1))
    assert places.is_refused(places.host, TWO)
    assert {one for one, _ in within(places.host, lambda: routes.answered_for(Netlink()))} == {ONE}
    del places.vms["b", 0]


async def test_what_is_left_for_no_vm_is_taken_away(places: Places) -> None:
    await places.plug("a", 0)
    await places.networks.expose(
        "a", 0, exposure("a", 0, ONE, forwards=((8080, 80),), bridge="br0")
    )
    places.networks.close()
    later = places.networks = Networks(places.instance, places.host)
    assert later.way_out == (f"copper-{places.instance}", False)
    await later.settle()
    assert later.way_out == ("", False) and later.exposed() == {}
    assert within(places.host, lambda: routes.answered_for(Netlink())) == set()
    assert places.is_refused(places.neighbour, HOST, 8080)
    later.adopt("a", 0)


async def test_an_agent_that_ends_in_the_middle_is_gone_on_from(places: Places) -> None:
    await places.plug("a", 0)
    await places.networks.expose("a", 0, exposure("a", 0, ONE))
    places.networks.close()
    device = within(places.host, lambda: netlink.index_of(places.networks.device))
    within(places.host, lambda: Netlink().ask(netlink.remove(device)))
    later = places.networks = Networks(places.instance, places.host)
    later.adopt("a", 0, exposure("a", 0, ONE))
    await later.clear()
    places.reaches(places.host, ONE, places.listen(places.vm("a", 0)))


async def test_what_somebody_changes_in_the_kernel_is_seen(places: Places) -> None:
    await places.plug("a", 0)
    everything = exposure("a", 0, ONE, egress=("192.0.2.0/24",), forwards=((8080, 80),))
    await places.networks.expose("a", 0, everything)
    assert places.networks.exposed() == {"a": {0: everything.summary}}
    device = within(places.host, lambda: netlink.index_of(places.networks.device))
    within(places.host, lambda: Netlink().ask(routes.remove_route(ONE, device)))
    assert places.networks.exposed() == {"a": {0: "tcp 8080:80; egress 192.0.2.0/24"}}
    await places.networks.expose("a", 0, everything)
    assert places.networks.exposed() == {"a": {0: everything.summary}}
    within(places.host, lambda: Nft().run("flush ruleset"))
    assert places.networks.exposed() == {
        "a": {0: f"{ONE} nat -; egress 192.0.2.0/24"},
    }
    await places.networks.expose("a", 0, everything)
    assert places.networks.exposed() == {"a": {0: everything.summary}}
    places.reaches(places.neighbour, HOST, places.listen(places.vm("a", 0)), 8080)
