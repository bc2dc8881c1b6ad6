"""Public addresses as the kernel has them: who reaches a VM from where, and that nothing is left.

Where a process may not make namespaces, or nft is missing, they are skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from copper.model.errors import Refused
from copper.model.networks import EVERYWHERE, Exposure
from copper.net import routes
from copper.net.addresses import GATEWAY, ipv4_of
from copper.net.netlink import Netlink
from copper.net.translation import FLOWS
from tests.unit.places import (
    ANSWERED_S,
    HOST,
    NEIGHBOUR,
    ON_WIRE,
    ONE,
    REFUSED_S,
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


async def test_the_same_private_addresses_are_reached_by_different_public_ones(
    places: Places,
) -> None:
    for cluster, address in (("a", ONE), ("b", TWO)):
        await places.plug(cluster, 0)
        await places.networks.expose(cluster, 0, exposure(cluster, 0, address))
    listeners = {address: places.listen(places.vm(c, 0)) for c, address in (("a", ONE), ("b", TWO))}
    for address, listener in listeners.items():
        places.reaches(places.host, address, listener)
    other = {ONE: places.vm("b", 0), TWO: places.vm("a", 0)}
    for address, listener in listeners.items():
        assert places.is_refused(other[address], address)  # its egress is none
        assert not select.select([listener], [], [], 0)[0]


async def test_virtual_clusters_reach_each_other_by_public_addresses(places: Places) -> None:
    await places.plug("a", 0)
    await places.plug("b", 0)
    await places.networks.expose("a", 0, exposure("a", 0, ONE, egress=EVERYWHERE))
    await places.networks.expose("b", 0, exposure("b", 0, TWO))
    listener = places.listen(places.vm("b", 0))
    assert places.reaches(places.vm("a", 0), TWO, listener) == ONE
    places.listen(places.vm("a", 0))
    assert places.is_refused(places.vm("b", 0), ONE)


async def test_vms_of_one_virtual_cluster_have_each_others_public_addresses_too(
    places: Places,
) -> None:
    await places.plug("a", 0, 1, 2)
    await places.networks.expose("a", 0, exposure("a", 0, ONE))
    await places.networks.expose("a", 1, exposure("a", 1, TWO))
    listener = places.listen(places.vm("a", 1))
    assert places.reaches(places.vm("a", 0), TWO, listener) == ONE
    assert places.reaches(places.vm("a", 2), TWO, listener) == GATEWAY  # it has none
    assert places.reaches(places.vm("a", 1), TWO, listener) == TWO


async def test_neighbours_on_the_networks_wire_reach_it_by_its_bridge(places: Places) -> None:
    await places.plug("a", 0)
    await places.networks.expose("a", 0, exposure("a", 0, ONE, bridge="br0"))
    listener = places.listen(places.vm("a", 0))
    assert places.reaches(places.neighbour, ONE, listener) == ON_WIRE
    await places.networks.expose("a", 0, exposure("a", 0))
    assert within(places.host, lambda: routes.answered_for(Netlink())) == set()


async def test_who_has_the_address_of_a_vm_in_the_world_reaches_vms_too(places: Places) -> None:
    await places.plug("a", 0, 1)
    both = exposure("a", 0, ONE, forwards=((8080, 80),), bridge="br0")
    await places.networks.expose("a", 0, both)
    listener = places.listen(places.vm("a", 0))
    for address in (ipv4_of(1), ipv4_of(0), "10.9.9.9"):
        places.lives_at(address)
        assert places.reaches(places.neighbour, ONE, listener, source=address) == GATEWAY
        assert places.reaches(places.neighbour, HOST, listener, 8080, address) == GATEWAY
    assert places.reaches(places.vm("a", 1), ONE, listener) == GATEWAY


async def test_a_vm_goes_out_as_far_as_it_may(places: Places) -> None:
    await places.plug("a", 0, 1, 2, 3)
    out = places.listen(places.neighbour)
    await places.networks.expose("a", 0, exposure("a", 0, egress=EVERYWHERE))
    await places.networks.expose("a", 1, exposure("a", 1, ONE, egress=EVERYWHERE, bridge="br0"))
    few = ("192.0.2.64/28", "192.0.2.64/27", "2001:db8::/32")
    await places.networks.expose("a", 2, exposure("a", 2, egress=few))
    assert places.reaches(places.vm("a", 0), NEIGHBOUR, out) == HOST
    assert places.reaches(places.vm("a", 1), NEIGHBOUR, out) == ONE
    assert places.reaches(places.vm("a", 2), NEIGHBOUR, out) == HOST
    assert places.is_refused(places.vm("a", 3), NEIGHBOUR)
    other = places.listen(places.host)
    assert places.reaches(places.vm("a", 0), HOST, other)
    assert places.is_refused(places.vm("a", 2), HOST)
    await places.networks.expose("a", 0, exposure("a", 0))
    assert places.is_refused(places.vm("a", 0), NEIGHBOUR)


async def test_a_vm_that_opens_connections_without_end_takes_none_of_the_others(
    places: Places,
) -> None:
    await places.plug("a", 0, 1)
    for vmid in (0, 1):
        await places.networks.expose("a", vmid, exposure("a", vmid, egress=EVERYWHERE))
    out = places.listen(places.neighbour)

    def flood() -> None:
        for port in range(10_000, 10_000 + 2 * FLOWS):
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                sock.bind(("0.0.0.0", port))
                with contextlib.suppress(OSError):  # where nobody listens it is told so
                    sock.sendto(b"", (NEIGHBOUR, 9))

    within(places.vm("a", 0), flood)
    assert places.is_refused(places.vm("a", 0), NEIGHBOUR)
    assert places.reaches(places.vm("a", 1), NEIGHBOUR, out) == HOST
    tracked = Path("/proc/sys/net/netfilter/nf_conntrack_count")
    assert int(within(places.host, tracked.read_text)) <= FLOWS + 16


@pytest.mark.parametrize("has", [(), (ONE,)])
async def test_what_is_not_let_out_is_told_so_at_once(places: Places, has: tuple[str]) -> None:
    await places.plug("a", 0)
    await places.networks.expose("a", 0, exposure("a", 0, *has))
    with pytest.raises(OSError, match=r"No route to host|Network is unreachable") as refused:
        places.connect(places.vm("a", 0), NEIGHBOUR)
    assert refused.value.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH)


async def test_a_port_of_the_host_leads_to_a_vm(places: Places) -> None:
    await places.plug("a", 0, 1)
    await places.plug("b", 0)
    to_a = exposure("a", 1, forwards=((8080, 80), (8081, 81)))
    await places.networks.expose("a", 1, to_a)
    await places.networks.expose("b", 0, exposure("b", 0, forwards=((9090, 80),)))
    listeners = {
        8080: places.listen(places.vm("a", 1)),
        8081: places.listen(places.vm("a", 1), 81),
        9090: places.listen(places.vm("b", 0)),
    }
    for port, listener in listeners.items():
        assert places.reaches(places.neighbour, HOST, listener, port) == NEIGHBOUR
        places.reaches(places.host, HOST, listener, port)
    await places.networks.expose("a", 1, exposure("a", 1, forwards=((8081, 81),)))
    assert places.is_refused(places.neighbour, HOST, 8080)
    places.reaches(places.neighbour, HOST, listeners[8081], 8081)
    places.reaches(places.neighbour, HOST, listeners[9090], 9090)


async def test_what_is_taken_back_ends_at_once_and_the_next_who_has_it_is_another(
    places: Places,
) -> None:
    await places.plug("a", 0, 1, 2)
    await places.networks.expose("a", 0, exposure("a", 0, ONE))
    await places.networks.expose("a", 2, exposure("a", 2, TWO))  # the way out stays
    first, second = (
        within(places.vm("a", vmid), lambda: socket.socket(type=socket.SOCK_DGRAM))
        for vmid in (0, 1)
    )
    client = within(places.host, lambda: socket.socket(type=socket.SOCK_DGRAM))
    places.sockets += [first, second, client]
    for sock in (first, second):
        sock.bind(("0.0.0.0", 53))
        sock.settimeout(ANSWERED_S)
    client.connect((ONE, 53))
    client.send(b"one")
    said, whose = first.recvfrom(16)
    assert said == b"one"
    await places.networks.expose("a", 0, exposure("a", 0))
    first.sendto(b"late", whose)
    await places.networks.expose("a", 1, exposure("a", 1, ONE))
    client.send(b"two")
    assert second.recv(16) == b"two"
    assert not select.select([first, client], [], [], REFUSED_S)[0]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (exposure("a", 1, ONE), r"198\.51\.100\.10 is brought to a-0 already"),
        (exposure("a", 1, TWO, bridge="br9"), "has no device br9"),
        (exposure("a", 1, "2001:db8::1"), "translates no IPv6, such as 2001:db8::1"),
        (exposure("a", 1, NEIGHBOUR), f"has a way to {NEIGHBOUR} already"),
    ],
)
async def test_what_cannot_be_is_refused_and_all_is_as_it_was(
    places: Places, asked: Exposure, why: str
) -> None:
    within(places.host, places.own_route)
    await places.plug("a", 0, 1)
    await places.networks.expose("a", 0, exposure("a", 0, ONE))
    with pytest.raises(Refused, match=why):
        await places.networks.expose("a", 1, asked)
    assert places.networks.exposed() == {"a": {0: f"{ONE} nat -; egress none"}}
    places.reaches(places.host, ONE, places.listen(places.vm("a", 0)))


async def test_who_cannot_be_brought_into_force_holds_up_nobody_else(places: Places) -> None:
    within(places.host, places.own_route)
    await places.plug("a", 0, 1, 2)
    await places.plug("b", 0)
    await places.networks.expose("a", 0, exposure("a", 0, ONE))
    bad, _, good = await asyncio.gather(
        places.networks.expose("a", 1, exposure("a", 1, NEIGHBOUR)),
        places.networks.leave("a", 0),
        places.networks.expose("b", 0, exposure("b", 0, TWO)),
        return_exceptions=True,
    )
    assert isinstance(bad, Refused) and good is None
    assert places.networks.exposed() == {"b": {0: f"{TWO} nat -; egress none"}}


async def test_a_host_that_does_not_forward_says_so(places: Places) -> None:
    await places.plug("a", 0)
    places.sysctl(places.host, "ipv4/ip_forward", "0")
    with pytest.raises(Refused, match="this host does not forward"):
        await places.networks.expose("a", 0, exposure("a", 0, ONE, bridge="br0"))
    await places.networks.expose("a", 0, exposure("a", 0, ONE))  # it is reached from the host


async def test_many_are_brought_into_force_together(places: Places) -> None:
    many = range(32)
    await places.plug("a", 0)
    for vmid in many:
        os.close(await places.networks.tap("a", vmid + 1))
    asked = [exposure("a", vmid + 1, f"198.51.100.{vmid + 100}") for vmid in many]
    await asyncio.gather(*(places.networks.expose("a", vmid + 1, asked[vmid]) for vmid in many))
    assert len(places.networks.exposed()["a"]) == len(many)
    await asyncio.gather(*(places.networks.leave("a", vmid + 1) for vmid in many))
    assert places.networks.exposed() == {}
