"""Public addresses as the kernel has them: who reaches a VM from where, and that nothing is left.

A namespace stands for each VM, behind a cable where QEMU would hold a tap, and one for the host: nothing leaves them.
Where a process may not make namespaces, or nft is missing, they are skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import select
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from copper.model.errors import CopperError, Refused
from copper.model.networks import EVERYWHERE, Exposure, Forward, Mode, PublicAddress
from copper.net import namespaces, netlink, routes
from copper.net.addresses import GATEWAY, ipv4_of, mac_of
from copper.net.filter import tap_name
from copper.net.netlink import Netlink
from copper.net.networks import Networks
from copper.net.nft import Nft
from copper.net.private import open_lone_tap
from copper.net.translation import FLOWS

T = TypeVar("T")
ANSWERED_S = 60.0
REFUSED_S = 0.3
ONE, TWO, THREE = "198.51.100.10", "198.51.100.11", "198.51.100.12"
HOST = "192.0.2.1"  # the host's own, as the namespace that stands for it has it
NEIGHBOUR = "192.0.2.77"  # on the host's wire
ON_WIRE = "198.51.100.1"  # it, as all that share a network with public addresses


def _why_not() -> str:
    if os.geteuid():
        return "needs root"
    if shutil.which("nft") is None:
        return "needs nft"
    try:
        os.close(open_lone_tap())
    except OSError as error:
        return f"no taps in network namespaces here: {error}"
    return ""


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "runs")


def within(name: str, work: Callable[[], T]) -> T:
    """Does something in a namespace; sockets that are made there stay there."""
    result: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            namespaces.enter(name)
            result.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return result[0]


def made(name: str) -> None:
    def run() -> None:
        with namespaces.made(name):
            link = Netlink()
            link.ask(netlink.set_up("lo"))
            link.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


class Places:
    """A host with virtual clusters, and who is on its wire."""

    def __init__(self) -> None:
        self.instance = f"t{secrets.token_hex(4)}"
        self.host = f"host-{self.instance}"
        self.neighbour = f"next-{self.instance}"
        self.made: list[str] = []
        self.sockets: list[socket.socket] = []
        self.vms: dict[tuple[str, int], int] = {}
        for name in (self.host, self.neighbour):
            self._made(name)
        self._cable(self.host, "br0", self.neighbour, "eth0")
        self._address(self.host, "br0", HOST)
        self._address(self.neighbour, "eth0", NEIGHBOUR)
        self.sysctl(self.host, "ip_forward", "1")
        within(
            self.neighbour,
            lambda: self._route(routes.add_route("", HOST, netlink.index_of("eth0"))),
        )
        self.sysctl(self.host, "neigh/br0/proxy_delay", "0")
        self._address(self.host, "br0", "198.51.100.2")
        self._address(self.neighbour, "eth0", ON_WIRE)
        self.networks = Networks(self.instance, self.host)

    def _made(self, name: str) -> None:
        made(name)
        self.made.append(name)

    def _cable(self, here: str, device: str, there: str, other: str) -> None:
        def run() -> None:
            far = namespaces.descriptor(there)
            link = Netlink()
            link.ask(routes.add_cable(device, other, far), netlink.set_up(device))
            link.close()
            os.close(far)

        within(here, run)

        def up() -> None:
            link = Netlink()
            link.ask(netlink.set_up(other))
            link.close()

        within(there, up)

    def _address(self, where: str, device: str, address: str, prefix: int = 24) -> None:
        def run() -> None:
            link = Netlink()
            link.ask(netlink.add_address(netlink.index_of(device), address, prefix))
            link.close()

        within(where, run)

    def _route(self, message: netlink.Message) -> None:
        link = Netlink()
        link.ask(message)
        link.close()

    def lives_at(self, address: str) -> None:
        """The neighbour has this address as well, and the host knows."""
        self._address(self.neighbour, "eth0", address, 32)
        within(
            self.host,
            lambda: self._route(routes.add_route(address, NEIGHBOUR, netlink.index_of("br0"))),
        )

    def own_route(self) -> None:
        """Of the host: a way to one of its neighbours."""
        link = Netlink()
        device = netlink.index_of("br0")
        link.ask(routes.add_route(NEIGHBOUR, "192.0.2.2", device))
        link.close()

    def sysctl(self, where: str, name: str, value: str) -> None:
        within(where, lambda: Path("/proc/sys/net/ipv4", name).write_text(value))

    async def plug(self, cluster: str, *vmids: int) -> None:
        """VMs: a tap's name on the bridge, with a namespace behind it."""
        for vmid in vmids:
            os.close(await self.networks.tap(cluster, vmid))  # known by now; the cable has its name
            vm = self.vm(cluster, vmid)
            self._made(vm)
            self._cable(self.networks.namespace_of(cluster), tap_name(vmid), vm, "eth0")

            def own(vmid: int = vmid) -> None:
                link = Netlink()
                device = netlink.index_of("eth0")
                link.ask(set_mac(device, mac_of(vmid)), netlink.set_up("eth0"))
                link.ask(netlink.add_address(device, ipv4_of(vmid), 24))
                link.ask(routes.add_route("", GATEWAY, device))
                link.close()

            within(vm, own)
            await self.networks.link_up(cluster, vmid)
            self.vms[cluster, vmid] = vmid

    def vm(self, cluster: str, vmid: int) -> str:
        return f"vm-{self.instance}-{cluster}-{vmid}"

    async def end(self, cluster: str, vmid: int) -> None:
        del self.vms[cluster, vmid]
        namespaces.remove(self.vm(cluster, vmid))
        await self.networks.leave(cluster, vmid)

    async def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        for cluster, vmid in list(self.vms):
            with contextlib.suppress(CopperError):
                await self.end(cluster, vmid)
        self.networks.close()
        for name in (*self.made, *namespaces.names(f"copper-{self.instance}")):
            namespaces.remove(name)

    def listen(self, where: str, port: int = 80, host: str = "0.0.0.0") -> socket.socket:
        sock = within(where, lambda: socket.create_server((host, port)))
        sock.settimeout(ANSWERED_S)
        self.sockets.append(sock)
        return sock

    def connect(
        self,
        where: str,
        address: str,
        port: int = 80,
        timeout: float = ANSWERED_S,
        source: str = "",
    ) -> socket.socket:
        sock = within(where, lambda: socket.socket())
        sock.bind((source, 0))
        self.sockets.append(sock)
        sock.settimeout(timeout)
        sock.connect((address, port))
        return sock

    def reaches(
        self, where: str, address: str, listener: socket.socket, port: int = 80, source: str = ""
    ) -> str:
        """Whose connection the listener sees, by its address; nothing else answers."""
        client = self.connect(where, address, port, source=source)
        assert select.select([listener], [], [], ANSWERED_S)[0]
        server, (seen, *_) = listener.accept()
        self.sockets.append(server)
        client.sendall(b"hello")
        assert server.recv(5) == b"hello"
        server.sendall(b"there")
        assert client.recv(5) == b"there"
        return str(seen)

    def is_refused(self, where: str, address: str, port: int = 80) -> bool:
        try:
            self.connect(where, address, port, REFUSED_S)
        except OSError:
            return True
        return False


def set_mac(index: int, mac: str) -> netlink.Message:
    kind, flags, body = netlink.set_up("eth0")
    return kind, flags, body + netlink.attribute(1, bytes.fromhex(mac.replace(":", "")))


def exposure(
    cluster: str,
    vmid: int,
    *addresses: str,
    egress: tuple[str, ...] = (),
    forwards: tuple[tuple[int, int], ...] = (),
    bridge: str = "",
    mode: Mode = "nat",
) -> Exposure:
    return Exposure(
        vm=f"{cluster}-{vmid}",
        cluster=cluster,
        private=ipv4_of(vmid),
        addresses=[
            PublicAddress(network="public", address=one, mode=mode, bridge=bridge)
            for one in addresses
        ],
        egress=list(egress),
        forwards=[
            Forward(cluster=cluster, vmid=vmid, host_port=port, port=to) for port, to in forwards
        ],
    )


@pytest.fixture
async def places() -> AsyncIterator[Places]:
    there = Places()
    host = there.host
    try:
        yield there
        for cluster, vmid in list(there.vms):
            await there.end(cluster, vmid)
        assert [name for name in namespaces.names("copper-") if there.instance in name] == []
        assert f"cp-{there.instance}" not in within(host, lambda: set(Netlink().links()))
        assert there.instance not in within(host, lambda: Nft().run("list ruleset"))
        assert within(host, lambda: routes.answered_for(Netlink())) == set()
    finally:
        with contextlib.suppress(OSError):
            await there.close()


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
    few = ("192.0.2.64/28", "192.0.2.64/27", "203.0.113.0/24")
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


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (exposure("a", 1, ONE), r"198\.51\.100\.10 is brought to a-0 already"),
        (exposure("a", 1, TWO, bridge="br9"), "has no device br9"),
        (exposure("a", 1, TWO, mode="routed"), "only translates"),
        (exposure("a", 1, "2001:db8::1"), "only IPv4"),
        (exposure("a", 1, egress=("2001:db8::/32",)), "to IPv4 only"),
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
    places.sysctl(places.host, "ip_forward", "0")
    with pytest.raises(Refused, match="this host does not forward"):
        await places.networks.expose("a", 0, exposure("a", 0, ONE, bridge="br0"))
    await places.networks.expose("a", 0, exposure("a", 0, ONE))  # it is reached from the host


async def test_many_are_brought_into_force_together(places: Places) -> None:
    many = range(32)
    await places.plug("a", 0)
    for vmid in many:
        os.close(await places.networks.tap("a", vmid + 1))
    asked = [exposure("a", vmid + 1, f"203.0.113.{vmid}") for vmid in many]
    await asyncio.gather(*(places.networks.expose("a", vmid + 1, asked[vmid]) for vmid in many))
    assert len(places.networks.exposed()["a"]) == len(many)
    await asyncio.gather(*(places.networks.leave("a", vmid + 1) for vmid in many))
    assert places.networks.exposed() == {}
