"""VMs that somebody took off the wire of their private network are found, and put back with all that holds them.

Where a process may not make namespaces, or nft is missing, they are skipped.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable

import pytest

from copper.model.errors import CopperError
from copper.model.networks import EVERYWHERE
from copper.net import netlink
from copper.net.addresses import ipv4_of, ipv6_of
from copper.net.filter import TABLE, tap_name
from copper.net.netlink import Message, Netlink
from copper.net.networks import Networks
from copper.net.nft import Nft
from copper.net.private import NO_TAP
from tests.unit.places import (
    NEIGHBOUR,
    ONE,
    SIX,
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


def asked(message: Callable[[], Message]) -> Callable[[], None]:
    def run() -> None:
        link = Netlink()
        link.ask(message())
        link.close()

    return run


def set_down(name: str) -> Message:
    kind, flags, body = netlink.set_up(name)
    return kind, flags, body[:8] + bytes(4) + body[12:]  # its flags: not up


def nft(text: str) -> Callable[[], None]:
    def run() -> None:
        one = Nft()
        one.run(text)
        one.close()

    return run


TAKEN = {
    "its tap is down": asked(lambda: set_down(tap_name(1))),
    "its tap is not on the bridge": asked(lambda: netlink.into_bridge(tap_name(1), 0)),
    "nothing says what it may send": nft(f"flush set {TABLE} macs"),
}
OF_ALL = {
    "nothing says what it may send": [
        nft("flush ruleset"),
        nft(f"delete table {TABLE}"),
        nft(f"flush chain {TABLE} from_vms"),
    ],
    "there is no bridge": [
        asked(lambda: set_down("copper")),
        asked(lambda: netlink.remove(netlink.index_of("copper"))),
    ],
}


@pytest.mark.parametrize("why", TAKEN)
async def test_a_vm_that_is_taken_off_is_found_and_put_back(places: Places, why: str) -> None:
    await places.plug("a", 0, 1)
    assert places.networks.off_wire() == {"a": {}}
    within(places.networks.namespace_of("a"), TAKEN[why])
    found = places.networks.off_wire()["a"]
    assert found[1] == why
    assert await places.networks.mend("a", 1)
    assert places.networks.off_wire() == {"a": {}}
    listener = places.listen(places.vm("a", 1))
    assert places.reaches(places.vm("a", 0), ipv4_of(1), listener) == ipv4_of(0)


@pytest.mark.parametrize(
    ("why", "number"), [(why, n) for why, all_ in OF_ALL.items() for n in range(len(all_))]
)
async def test_all_are_put_back_with_what_they_have_of_the_world(
    places: Places, why: str, number: int
) -> None:
    await places.plug("a", 0, 1)
    first = exposure("a", 0, ONE, egress=EVERYWHERE, bridge="br0")
    second = exposure("a", 1, routed=(TWO, SIX), egress=EVERYWHERE, bridge="br0")
    for vmid, one in enumerate((first, second)):
        await places.networks.expose("a", vmid, one)
        places.own("a", vmid, *one.routed)
    within(places.networks.namespace_of("a"), OF_ALL[why][number])
    assert places.networks.off_wire() == {"a": {0: why, 1: why}}
    for vmid in (0, 1):
        assert await places.networks.mend("a", vmid)
    assert places.networks.off_wire() == {"a": {}}
    assert places.networks.exposed() == {"a": {0: first.summary, 1: second.summary}}
    vm = places.vm("a", 1)
    four, six = places.listen(vm), places.listen(vm, host="::")
    places.reaches(places.neighbour, ONE, places.listen(places.vm("a", 0)))
    for address, listener in ((TWO, four), (SIX, six)):
        places.reaches(places.neighbour, address, listener)
    places.own("a", 0)
    for address, listener in ((ipv4_of(1), four), (ipv6_of(1), six)):
        places.reaches(places.vm("a", 0), address, listener)
    assert places.reaches(places.vm("a", 0), NEIGHBOUR, places.listen(places.neighbour)) == ONE


async def test_a_new_agent_finds_them_as_well(places: Places) -> None:
    await places.plug("a", 0, 1)
    places.networks.close()
    later = places.networks = Networks(places.instance, places.host)
    for vmid in (0, 1):
        later.adopt("a", vmid)
        await later.link_up("a", vmid)
    within(later.namespace_of("a"), OF_ALL["nothing says what it may send"][0])
    assert sorted(later.off_wire()["a"]) == [0, 1]
    assert await later.mend("a", 0)
    assert later.off_wire() == {"a": {}}


async def test_one_that_is_not_to_be_on_the_wire_is_not_put_on_it(places: Places) -> None:
    os.close(await places.networks.tap("a", 0))  # a clone that has not taken its identity
    await places.plug("a", 1)
    assert places.networks.off_wire() == {"a": {}}
    assert not await places.networks.mend("a", 0)
    await places.networks.leave("a", 0)


async def test_a_tap_that_somebody_removed_is_said_and_cannot_come_back(places: Places) -> None:
    await places.plug("a", 0)
    where = places.networks.namespace_of("a")
    within(where, asked(lambda: netlink.remove(netlink.index_of(tap_name(0)))))
    assert places.networks.off_wire() == {"a": {0: NO_TAP}}
    with pytest.raises(CopperError, match="there is no such device"):
        await places.networks.mend("a", 0)
