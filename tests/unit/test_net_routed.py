"""Public addresses that are VMs' own, of IPv4 and IPv6: nothing is translated, and nobody has another's.

Where a process may not make namespaces, or nft is missing, they are skipped.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import select
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from copper.model.errors import Refused
from copper.model.networks import EVERYWHERE
from copper.net import netlink, routes
from copper.net.addresses import ipv4_of, ipv6_of, mac_of
from copper.net.filter import TABLE
from copper.net.netlink import Netlink
from copper.net.networks import Networks
from copper.net.nft import Nft
from copper.net.private import BRIDGE_MAC
from copper.net.translation import FLOWS
from tests.unit.places import (
    ANSWERED_S,
    HOST,
    HOST6,
    NEIGHBOUR,
    NEIGHBOUR6,
    ON_WIRE,
    ON_WIRE6,
    ONE,
    REFUSED_S,
    SEVEN,
    SIX,
    TWO,
    Places,
    all_places,
    exposure,
    why_not,
    within,
)

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "runs")
BOTH = pytest.mark.parametrize(
    ("one", "two", "neighbour", "host", "on_wire"),
    [(ONE, TWO, NEIGHBOUR, HOST, ON_WIRE), (SIX, SEVEN, NEIGHBOUR6, HOST6, ON_WIRE6)],
    ids=["IPv4", "IPv6"],
)


@pytest.fixture
async def places() -> AsyncIterator[Places]:
    async with all_places() as there:
        yield there


async def routed(
    places: Places, cluster: str, vmid: int, *addresses: str, egress: tuple[str, ...] = ()
) -> str:
    """A VM that has these addresses itself; where it is."""
    await places.plug(cluster, vmid)
    there = exposure(cluster, vmid, routed=addresses, egress=egress, bridge="br0")
    await places.networks.expose(cluster, vmid, there)
    places.own(cluster, vmid, *addresses)
    return places.vm(cluster, vmid)


def anywhere(address: str) -> str:
    return "::" if ":" in address else "0.0.0.0"


@BOTH
async def test_a_vm_has_its_address_itself_and_is_seen_as_it(
    places: Places, one: str, two: str, neighbour: str, host: str, on_wire: str
) -> None:
    vm = await routed(places, "a", 0, one, egress=EVERYWHERE)
    listener = places.listen(vm, host=one)  # it can, for the address is its own
    assert places.reaches(places.neighbour, one, listener, source=neighbour) == neighbour
    assert places.reaches(places.neighbour, one, listener) == on_wire  # by who answers on the wire
    places.reaches(places.host, one, listener)
    out = places.listen(places.neighbour, host=anywhere(one))
    assert places.reaches(vm, neighbour, out) == one
    assert places.reaches(vm, host, places.listen(places.host, host=anywhere(one))) == one
    await places.networks.expose("a", 0, exposure("a", 0, egress=EVERYWHERE))
    assert places.is_refused(places.neighbour, one)
    assert within(places.host, lambda: routes.answered_for(Netlink())) == set()


@BOTH
async def test_vms_reach_each_other_by_them_within_a_virtual_cluster_and_between_two(
    places: Places, one: str, two: str, neighbour: str, host: str, on_wire: str
) -> None:
    first = await routed(places, "a", 0, one)
    second = await routed(places, "a", 1, two)
    other = await routed(places, "b", 0, three_of(one), egress=EVERYWHERE)
    listener = places.listen(second, host=anywhere(one))
    assert places.reaches(first, two, listener) == one
    assert places.reaches(other, two, listener) == three_of(one)
    places.listen(other, host=anywhere(one))
    assert places.is_refused(first, three_of(one))  # its way out is none


def three_of(address: str) -> str:
    return str(ipaddress.ip_address(address) + 2)


@BOTH
async def test_the_way_out_is_as_wide_as_was_said_and_closes_at_once(
    places: Places, one: str, two: str, neighbour: str, host: str, on_wire: str
) -> None:
    some = ("192.0.2.64/28", "2001:db8:1::40/122")  # the neighbour and not the host
    vm = await routed(places, "a", 0, one, egress=some)
    out = places.listen(places.neighbour, host=anywhere(one))
    assert places.reaches(vm, neighbour, out) == one
    places.listen(places.host, host=anywhere(one))
    with pytest.raises(OSError) as refused:
        places.connect(vm, host)
    assert refused.value.errno in (errno.EHOSTUNREACH, errno.EACCES)  # it is told so
    client = places.connect(vm, neighbour)
    server, _ = out.accept()
    places.sockets.append(server)
    client.sendall(b"before")
    assert server.recv(16) == b"before"
    await places.networks.expose("a", 0, exposure("a", 0, routed=(one,), bridge="br0"))
    with contextlib.suppress(OSError):
        client.sendall(b"after")
    assert not select.select([server], [], [], REFUSED_S)[0]
    places.reaches(places.neighbour, one, places.listen(vm, host=anywhere(one)))


async def test_what_has_no_address_of_ipv6_has_no_way_out_of_it(places: Places) -> None:
    both = await routed(places, "a", 0, SIX, egress=EVERYWHERE)
    alone = await routed(places, "a", 1, egress=EVERYWHERE)
    places.own("a", 1, ipv6_of(1))
    out = places.listen(places.neighbour, host="::")
    assert places.reaches(both, NEIGHBOUR6, out) == SIX
    with pytest.raises(OSError) as refused:
        places.connect(alone, NEIGHBOUR6)
    assert refused.value.errno == errno.EACCES
    assert not select.select([out], [], [], 0)[0]
    four = places.listen(places.neighbour)
    assert places.reaches(both, NEIGHBOUR, four) == HOST


async def test_one_is_translated_of_ipv4_and_has_one_of_ipv6_itself(places: Places) -> None:
    await places.plug("a", 0)
    has = exposure(
        *("a", 0, ONE),
        routed=(SIX,),
        egress=EVERYWHERE,
        forwards=((8080, 80),),
        bridge="br0",
    )
    await places.networks.expose("a", 0, has)
    places.own("a", 0, SIX)
    vm = places.vm("a", 0)
    listener = places.listen(vm)
    assert places.reaches(places.neighbour, HOST, listener, 8080) == NEIGHBOUR
    places.reaches(places.host, ONE, listener)
    places.reaches(places.host, SIX, places.listen(vm, host=SIX))
    assert places.reaches(vm, NEIGHBOUR, places.listen(places.neighbour)) == ONE
    assert places.reaches(vm, NEIGHBOUR6, places.listen(places.neighbour, host="::")) == SIX
    assert places.networks.exposed() == {"a": {0: has.summary}}


async def test_who_has_the_address_of_a_vm_in_the_world_reaches_it_too(places: Places) -> None:
    vm = await routed(places, "a", 0, ONE)
    listener = places.listen(vm, host=ONE)
    for address in (ipv4_of(1), ipv4_of(0)):
        places.lives_at(address)
        places.reaches(places.neighbour, ONE, listener, source=address)


# who lies harms only himself


def sent_from(places: Places, vm: str, source: str, to: str) -> None:
    """A datagram with a source that need not be the sender's."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with within(vm, lambda: socket.socket(family, socket.SOCK_DGRAM)) as sock:
        sock.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        sock.bind((source, 0))
        sock.sendto(source.encode(), (to, 9))


IPV6_TRANSPARENT = 75


@BOTH
async def test_a_vm_sends_as_nobody_else(
    places: Places, one: str, two: str, neighbour: str, host: str, on_wire: str
) -> None:
    liar = await routed(places, "a", 0, one, egress=EVERYWHERE)
    await routed(places, "a", 1, two, egress=EVERYWHERE)
    family = socket.AF_INET6 if ":" in one else socket.AF_INET
    heard = within(places.neighbour, lambda: socket.socket(family, socket.SOCK_DGRAM))
    places.sockets.append(heard)
    heard.bind((anywhere(one), 9))
    heard.settimeout(ANSWERED_S)
    for source in (two, three_of(one), neighbour, host):
        sent_from(places, liar, source, neighbour)
    sent_from(places, liar, one, neighbour)
    assert heard.recv(64) == one.encode()  # what came first
    assert not select.select([heard], [], [], REFUSED_S)[0]


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def claim(vmid: int, address: str) -> bytes:
    """A frame to all: this VM has that address."""
    own, packed = mac(mac_of(vmid)), ipaddress.ip_address(address).packed
    if len(packed) == 4:
        head = b"\xff" * 6 + own + b"\x08\x06"
        return (
            head + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + own + packed + b"\xff" * 6 + packed
        )
    to = ipaddress.ip_address("ff02::1").packed
    body = struct.pack("!BBHI", 136, 0, 0, 0x20000000) + packed + b"\x02\x01" + own
    total = struct.pack("!II", len(body), 58)
    words = struct.unpack(f"!{(32 + 8 + len(body)) // 2}H", packed + to + total + body)
    check = sum(words)
    check = (check & 0xFFFF) + (check >> 16)
    check = ~((check & 0xFFFF) + (check >> 16)) & 0xFFFF
    body = body[:2] + struct.pack("!H", check) + body[4:]
    return (
        b"\x33\x33\x00\x00\x00\x01"
        + own
        + b"\x86\xdd"
        + struct.pack("!IHBB", 0x60000000, len(body), 58, 255)
        + packed
        + to
        + body
    )


@BOTH
async def test_a_vm_answers_for_nobody_else(
    places: Places, one: str, two: str, neighbour: str, host: str, on_wire: str
) -> None:
    liar = await routed(places, "a", 0, one)
    honest = await routed(places, "a", 1, two)
    third = await routed(places, "a", 2)
    heard = within(third, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
    sends = within(liar, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    places.sockets += [heard, sends]
    heard.bind(("eth0", 0))
    sends.bind(("eth0", 0))
    for address in (two, three_of(one), ipv4_of(1), ipv6_of(1)):
        sends.send(claim(0, address))
    sends.send(claim(0, one))
    frames: list[bytes] = []
    while claim(0, one) not in frames:  # its own may be told
        assert select.select([heard], [], [], ANSWERED_S)[0]
        frames.append(heard.recv(2048))
    assert [frame for frame in frames if frame[6:12] == mac(mac_of(0))] == [claim(0, one)]
    listener = places.listen(honest, host=anywhere(two))
    places.reaches(places.neighbour, two, listener)
    places.own("a", 0, two)  # it has it, and nothing comes of that
    places.listen(liar, host=anywhere(two))
    places.reaches(places.neighbour, two, listener)
    # nor is the host's own a VM's
    sends.send(b"\xff" * 6 + mac(BRIDGE_MAC) + b"\x08\x06" + bytes(28))
    places.reaches(places.neighbour, two, listener)


@BOTH
async def test_a_flood_from_one_takes_nothing_of_anothers(
    places: Places, one: str, two: str, neighbour: str, host: str, on_wire: str
) -> None:
    flooding = await routed(places, "a", 0, one, egress=EVERYWHERE)
    other = await routed(places, "a", 1, two, egress=EVERYWHERE)
    family = socket.AF_INET6 if ":" in one else socket.AF_INET

    def flood() -> None:
        for port in range(10_000, 10_000 + 2 * FLOWS):
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.bind((one, port))
                with contextlib.suppress(OSError):
                    sock.sendto(b"", (neighbour, 9))

    within(flooding, flood)
    out = places.listen(places.neighbour, host=anywhere(one))
    assert places.is_refused(flooding, neighbour)
    assert places.reaches(other, neighbour, out) == two
    assert places.reaches(places.neighbour, one, places.listen(flooding, host=one))
    tracked = Path("/proc/sys/net/netfilter/nf_conntrack_count")
    assert int(within(places.host, tracked.read_text)) <= FLOWS + 32


# agents, and what somebody changes


@BOTH
async def test_who_has_the_address_next_is_reached_by_it(
    places: Places, one: str, two: str, neighbour: str, host: str, on_wire: str
) -> None:
    first = await routed(places, "a", 0, one)
    places.reaches(places.neighbour, one, places.listen(first, host=anywhere(one)))
    await places.end("a", 0)
    await routed(places, "b", 3, one)
    listener = places.listen(places.vm("b", 3), host=anywhere(one))
    places.reaches(places.neighbour, one, listener)
    assert places.networks.exposed() == {"b": {3: f"{one} routed br0; egress none"}}


async def test_a_new_agent_goes_on_with_them(places: Places) -> None:
    vm = await routed(places, "a", 0, ONE, SIX, egress=EVERYWHERE)
    await routed(places, "a", 1, TWO, SEVEN)
    listener = places.listen(vm, host=SIX)
    client = places.connect(places.neighbour, SIX)
    server, _ = listener.accept()
    places.sockets.append(server)
    has = exposure("a", 0, routed=(ONE, SIX), egress=EVERYWHERE, bridge="br0")
    places.networks.close()  # as the end of its process does
    later = places.networks = Networks(places.instance, places.host)
    found = later.exposed()["a"]
    assert found[1] == f"{TWO} routed -; {SEVEN} routed -; egress none"
    later.adopt("a", 0, has)
    later.adopt("a", 1)
    await later.clear()
    assert later.exposed() == {"a": {0: has.summary}}
    client.sendall(b"still")
    assert server.recv(5) == b"still"
    assert places.is_refused(places.neighbour, SEVEN) and places.is_refused(places.neighbour, TWO)
    sent_from(places, places.vm("a", 1), TWO, NEIGHBOUR)
    answered = {one for one, _ in within(places.host, lambda: routes.answered_for(Netlink()))}
    assert answered == {ONE, SIX}


@pytest.mark.parametrize("address", [ONE, SIX])
@pytest.mark.parametrize("gone", ["set", "chain", "table", "all", "route", "way"])
async def test_what_somebody_takes_away_is_seen_and_made_again(
    places: Places, address: str, gone: str
) -> None:
    vm = await routed(places, "a", 0, address)
    has = exposure("a", 0, routed=(address,), bridge="br0")
    namespace = places.networks.namespace_of("a")
    six = "6" if ":" in address else ""
    broken = {
        "set": f"flush set {TABLE} routed{six}",
        "chain": "flush chain inet world passing",
        "table": f"delete table {TABLE}",
        "all": "flush ruleset",
    }

    def take_away() -> None:
        if gone in broken:
            Nft().run(broken[gone])
        else:
            device = netlink.index_of("copper" if gone == "route" else places.networks.device)
            Netlink().ask(routes.remove_route(address, device))

    assert places.networks.exposed() == {"a": {0: has.summary}}
    within(places.host if gone == "way" else namespace, take_away)
    assert places.networks.exposed() != {"a": {0: has.summary}}
    await places.networks.expose("a", 0, has)
    assert places.networks.exposed() == {"a": {0: has.summary}}
    places.reaches(places.neighbour, address, places.listen(vm, host=address))


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("ipv6/conf/all/forwarding", r"does not forward: .*"),
        ("ipv6/conf/br0/proxy_ndp", r"does not forward: .*"),
    ],
)
async def test_a_host_that_does_not_forward_ipv6_says_so(
    places: Places, setting: str, why: str
) -> None:
    await places.plug("a", 0)
    places.sysctl(places.host, setting, "0")
    asked = exposure("a", 0, routed=(SIX,), bridge="br0")
    with pytest.raises(Refused, match=why) as refused:
        await places.networks.expose("a", 0, asked)
    assert setting.replace("/", ".") in (refused.value.advice or "")
    assert places.networks.exposed() == {}
    await places.networks.expose("a", 0, exposure("a", 0, routed=(SIX,)))
    places.own("a", 0, SIX)
    places.reaches(places.host, SIX, places.listen(places.vm("a", 0), host=SIX))
