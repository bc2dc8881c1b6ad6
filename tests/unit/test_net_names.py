"""Names inside virtual clusters' networks as the kernel has them: who is answered, who asks for whom, what is left.

Questions are written to taps as QEMU does, and sockets are lent to a server of names over a Unix socket, as by a host.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import dns.message
import dns.query
import dns.rcode
import pytest

from copper.dns.answers import Answers
from copper.dns.lend import borrowing, lending_socket
from copper.dns.names import Zone
from copper.dns.server import Listener
from copper.net import namespaces
from copper.net.addresses import GATEWAY, GATEWAY6, ipv4_of, ipv6_of, mac_of
from copper.net.networks import Networks
from copper.net.private import BRIDGE_MAC
from copper.net.resolvers import is_bound, open_pairs
from tests.unit.dns_servers import descriptors, until
from tests.unit.test_net_private import (
    HEARD_S,
    IPV4,
    IPV6,
    NO_HEADER,
    QUIET_S,
    Wire,
    _why_not,
    ethernet,
)
from tests.unit.zones import texts, vm, zone

pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "runs")
T = TypeVar("T")
PORT, MINE = 53, 4321
UDP = 17
WAIT_S = 60.0


def a_zone() -> Zone:
    """Two virtual clusters whose VMs have the same addresses."""
    sizes = {"a": 3, "b": 2}
    return zone(
        *(
            vm(f"{name}-{vmid}", ip=ipv4_of(vmid), ip6=ipv6_of(vmid))
            for name, size in sizes.items()
            for vmid in range(size)
        )
    )


class Server:
    """A server of names that can be ended and begun anew."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._open = contextlib.AsyncExitStack()
        self.asked = 0
        self.zone = a_zone()

    async def begin(self) -> None:
        await self._open.enter_async_context(borrowing(self._listening, self._serving))

    async def end(self) -> None:
        await self._open.aclose()

    @contextlib.asynccontextmanager
    async def _serving(
        self, cluster: str, udp: socket.socket, tcp: socket.socket
    ) -> AsyncIterator[None]:
        server = self

        class Counted(Answers):
            def answer(self, asked: bytes, *, tcp: bool = False) -> bytes | None:
                server.asked += 1
                return super().answer(asked, tcp=tcp)

        answers = Counted(self.zone, cluster, [udp.getsockname()[0]])
        answers.ready = True
        async with Listener(answers, None).serving(udp, tcp):
            yield


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    with lending_socket(tmp_path / "dns.sock") as listening:
        made = Server(listening)
        await made.begin()
        yield made
        await made.end()


@pytest.fixture
async def wire(tmp_path: Path, server: Server) -> AsyncIterator[Wire]:
    made = Wire()
    made.networks = Networks(made.instance, names=tmp_path / "dns.sock")
    yield made
    for cluster, vmid in list(made.taps):
        await made.unplug(cluster, vmid)
    made.networks.close()
    assert namespaces.names(f"copper-{made.instance}") == []


def _sum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def question(vmid: int, asked: bytes, host: str = GATEWAY) -> bytes:
    """A frame that asks the resolver, as VM `vmid` sends it."""
    six = ":" in host
    family = socket.AF_INET6 if six else socket.AF_INET
    source = ipv6_of(vmid) if six else ipv4_of(vmid)
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, host)
    length = 8 + len(asked)
    head = struct.pack("!HHHH", MINE, PORT, length, 0)
    right = _sum(ends + struct.pack("!II", length, UDP) + head + asked)
    datagram = head[:6] + struct.pack("!H", right or 0xFFFF) + asked
    if six:
        packet = struct.pack("!IHBB", 6 << 28, length, UDP, 64) + ends + datagram
        return ethernet(BRIDGE_MAC, mac_of(vmid), IPV6, packet)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, UDP, 0)
    packet = head[:10] + struct.pack("!H", _sum(head + ends)) + ends + datagram
    return ethernet(BRIDGE_MAC, mac_of(vmid), IPV4, packet)


def heard(tap: int, query: dns.message.Message, within: float) -> dns.message.Message | None:
    """The answer to a question, among all that comes out of a tap."""
    wanted = struct.pack("!HH", PORT, MINE)
    while select.select([tap], [], [], within)[0]:
        frame = os.read(tap, 65536)[len(NO_HEADER) :]
        place = frame.find(wanted)
        if place > 0:
            answer = dns.message.from_wire(frame[place + 8 :])
            if answer.id == query.id:
                return answer
    return None


async def ask(
    wire: Wire,
    cluster: str,
    vmid: int,
    name: str,
    kind: str = "A",
    host: str = GATEWAY,
    within: float = HEARD_S,
) -> dns.message.Message | None:
    """Asks as a VM does; None: nobody answered."""
    query = dns.message.make_query(name, kind)
    wire.send(vmid, question(vmid, query.to_wire(), host), cluster)
    return await asyncio.to_thread(heard, wire.taps[cluster, vmid], query, within)


async def told(wire: Wire, cluster: str, vmid: int, name: str, kind: str = "A") -> list[str]:
    """The answer's addresses or names; asked once: not even the first question of a network is lost."""
    answer = await ask(wire, cluster, vmid, name, kind)
    assert answer is not None
    return texts(answer.answer)


async def within(namespace: str, work: Callable[[], T]) -> T:
    """What a program in that namespace gets."""

    def there() -> T:
        namespaces.enter(namespace)
        try:
            return work()
        finally:
            namespaces.go_home()

    return await asyncio.to_thread(there)


async def test_each_virtual_cluster_is_told_its_own_addresses(wire: Wire) -> None:
    await wire.plug("a", 0, 1, 2)
    await wire.plug("b", 0, 1)
    for cluster, size in (("a", 3), ("b", 2)):
        own = [ipv4_of(vmid) for vmid in range(size)]
        assert await told(wire, cluster, 1, cluster) == own
        assert await told(wire, cluster, 0, f"{cluster}.clusters") == own
        assert await told(wire, cluster, 1, f"{cluster}-1.clusters", "AAAA") == [ipv6_of(1)]
        assert await told(wire, cluster, 0, "2.0.0.10.in-addr.arpa", "PTR") == [
            f"{cluster}-1.clusters."
        ]
        assert await told(wire, cluster, 0, "a.ns.clusters") == [GATEWAY]
        answer = await ask(wire, cluster, 1, f"{cluster}-0", host=GATEWAY6)
        assert answer is not None and texts(answer.answer) == [ipv4_of(0)]
    for other, name in (("b", "a-2.clusters"), ("b", "a"), ("a", "b-0")):
        assert await told(wire, other, 0, name) == []


async def test_tcp_is_answered_too(wire: Wire) -> None:
    await wire.plug("a", 0)
    space = wire.networks.namespace_of("a")
    query = dns.message.make_query("a", "A")

    def ask_all() -> list[dns.message.Message]:
        return [dns.query.tcp(query, host, timeout=WAIT_S) for host in (GATEWAY, GATEWAY6)]

    for answer in await within(space, ask_all):
        assert texts(answer.answer) == [ipv4_of(vmid) for vmid in range(3)]


async def test_what_is_asked_while_the_server_is_away_is_answered_by_the_next(
    wire: Wire, server: Server
) -> None:
    await wire.plug("a", 0)
    assert await told(wire, "a", 0, "a-0") == [ipv4_of(0)]
    await server.end()
    query = dns.message.make_query("a-1", "A")
    wire.send(0, question(0, query.to_wire()))
    assert await asyncio.to_thread(heard, wire.taps["a", 0], query, QUIET_S) is None
    await server.begin()
    answer = await asyncio.to_thread(heard, wire.taps["a", 0], query, WAIT_S)
    assert answer is not None and texts(answer.answer) == [ipv4_of(1)]


async def test_a_name_comes_and_goes_with_its_vm(wire: Wire, server: Server) -> None:
    await wire.plug("a", 0)
    server.zone.put("vm", vm("a-7", ip=ipv4_of(7), ip6=ipv6_of(7)))
    assert await told(wire, "a", 0, "a-7") == [ipv4_of(7)]
    server.zone.delete("vm", "a-7")
    answer = await ask(wire, "a", 0, "a-7.clusters")
    assert answer is not None and answer.rcode() == dns.rcode.NXDOMAIN


async def test_a_new_agent_answers_beside_an_earlier_one_that_is_not_quite_gone(
    wire: Wire, tmp_path: Path
) -> None:
    await wire.plug("a", 0)
    assert wire.networks.unanswered() == {"a": ""}
    later = Networks(wire.instance, names=tmp_path / "dns.sock")
    later.adopt("a", 0)
    await later.clear()
    wire.networks.close()
    assert await told(wire, "a", 0, "a-0") == [ipv4_of(0)]
    assert later.unanswered() == {"a": ""}
    wire.networks = later


async def test_what_nobody_answers_is_seen_and_mended(wire: Wire, tmp_path: Path) -> None:
    silent = Networks(wire.instance)
    assert silent.unanswered() == {}
    wire.taps["a", 0] = await silent.tap("a", 0)
    await silent.link_up("a", 0)
    silent.close()
    wire.networks.adopt("a", 0)
    assert wire.networks.unanswered() == {"a": "names cannot be asked for in its network"}
    for _ in range(2):  # again: no difference
        await wire.networks.mend_names("a")
        assert wire.networks.unanswered() == {"a": ""}
        assert await told(wire, "a", 0, "a-0") == [ipv4_of(0)]


async def test_nobody_else_takes_the_place_of_the_resolver(wire: Wire) -> None:
    await wire.plug("a", 0)
    space = wire.networks.namespace_of("a")

    def taken() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with pytest.raises(OSError):  # it does not share what is shared
            sock.bind((GATEWAY, PORT))
        return sock

    (await within(space, taken)).close()
    assert await told(wire, "a", 0, "a-0") == [ipv4_of(0)]


async def test_nothing_of_a_network_is_kept_after_its_last_vm(wire: Wire) -> None:
    await wire.plug("b", 0)
    assert await told(wire, "b", 0, "b-0") == [ipv4_of(0)]
    before = descriptors()
    for _ in range(3):
        await wire.plug("a", 0, 1)
        assert await told(wire, "a", 0, "a-1") == [ipv4_of(1)]
        for vmid in (0, 1):
            await wire.unplug("a", vmid)
        await until(lambda: descriptors() <= before)
    assert wire.networks.unanswered() == {"b": ""}


async def test_a_flood_of_questions_takes_nobody_elses_place(wire: Wire, server: Server) -> None:
    await wire.plug("a", 0, 1)
    await wire.plug("b", 0)
    assert await told(wire, "a", 0, "a-0") == [ipv4_of(0)]
    before = server.asked
    flood = question(1, dns.message.make_query("example.org", "A").to_wire())

    def pour() -> None:
        for _ in range(20_000):
            wire.send(1, flood)

    await asyncio.to_thread(pour)
    assert await told(wire, "a", 0, "a-1") == [ipv4_of(1)]
    assert await told(wire, "b", 0, "b-1") == [ipv4_of(1)]
    assert server.asked - before < 15_000


def test_a_host_without_ipv6_answers_all_the_same() -> None:
    families: list[int] = []

    def there() -> None:
        namespaces.new_thread_namespace()
        subprocess.run("ip link set lo up; ip addr add 10.0.0.254/8 dev lo", shell=True, check=True)
        assert not is_bound()
        pairs = open_pairs()
        families.extend(udp.family for udp, _ in pairs)
        assert is_bound()
        for pair in pairs:
            for sock in pair:
                sock.close()
        assert not is_bound()

    thread = threading.Thread(target=there)
    thread.start()
    thread.join()
    assert families == [socket.AF_INET]
