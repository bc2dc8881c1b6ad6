"""A host, VMs and their neighbours as network namespaces, behind cables where QEMU would hold taps.

Nothing leaves them. What a VM's agent would do in it is done here (`own`).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import select
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

from copper.model.errors import CopperError
from copper.model.networks import Exposure, Forward, PublicAddress
from copper.net import namespaces, netlink, routes
from copper.net.addresses import GATEWAY, GATEWAY6, PREFIX6, ipv4_of, ipv6_of, mac_of
from copper.net.filter import tap_name
from copper.net.netlink import Netlink
from copper.net.networks import Networks
from copper.net.nft import Nft
from copper.net.private import open_lone_tap

T = TypeVar("T")
ANSWERED_S = 60.0
REFUSED_S = 0.3
PREFERRED = 7  # RTA_PREFSRC
ONE, TWO, THREE = "198.51.100.10", "198.51.100.11", "198.51.100.12"
HOST = "192.0.2.1"  # the host's own, as the namespace that stands for it has it
NEIGHBOUR = "192.0.2.77"  # on the host's wire
ON_WIRE = "198.51.100.1"  # it, as all that share a network with public addresses
SIX, SEVEN = "2001:db8::10", "2001:db8::11"
HOST6, NEIGHBOUR6, ON_WIRE6 = "2001:db8:1::1", "2001:db8:1::77", "2001:db8::1"


def why_not() -> str:
    """Why this cannot be tried here; empty: it can."""
    if os.geteuid():
        return "needs root"
    if shutil.which("nft") is None:
        return "needs nft"
    try:
        os.close(open_lone_tap())
    except OSError as error:
        return f"no taps in network namespaces here: {error}"
    return ""


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
        self.sysctl(self.host, "ipv4/ip_forward", "1")
        within(
            self.neighbour,
            lambda: self._route(routes.add_route("", HOST, netlink.index_of("eth0"))),
        )
        self._address(self.host, "br0", "198.51.100.2")
        self._address(self.neighbour, "eth0", ON_WIRE)
        for name in ("ipv6/conf/all/forwarding", "ipv6/conf/br0/proxy_ndp"):
            self.sysctl(self.host, name, "1")
        for family in ("ipv4", "ipv6"):
            self.sysctl(self.host, f"{family}/neigh/br0/proxy_delay", "0")
        for address in (HOST6, "2001:db8::2"):
            self._address(self.host, "br0", address, 64)
        for address in (NEIGHBOUR6, ON_WIRE6):
            self._address(self.neighbour, "eth0", address, 64)
        within(
            self.neighbour,
            lambda: self._route(routes.add_route("", HOST6, netlink.index_of("eth0"))),
        )
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
        within(where, lambda: Path("/proc/sys/net", name).write_text(value))

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

    def own(self, cluster: str, vmid: int, *addresses: str) -> None:
        """The VM has these addresses itself, as its agent sees to it when it is told of them."""

        def run() -> None:
            device = netlink.index_of("eth0")
            with contextlib.closing(Netlink()) as link:
                link.ask(netlink.add_address(device, ipv6_of(vmid), PREFIX6))
                for address in addresses:
                    six = ":" in address
                    link.ask(netlink.add_address(device, address, 128 if six else 32))
                    kind, flags, body = routes.add_route("", GATEWAY6 if six else GATEWAY, device)
                    packed = ipaddress.ip_address(address).packed
                    link.ask((kind, flags, body + netlink.attribute(PREFERRED, packed)))

        within(self.vm(cluster, vmid), run)

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
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = within(where, lambda: socket.create_server((host, port), family=family))
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
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = within(where, lambda: socket.socket(family))
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
    routed: tuple[str, ...] = (),
) -> Exposure:
    return Exposure(
        vm=f"{cluster}-{vmid}",
        cluster=cluster,
        private=ipv4_of(vmid),
        addresses=[
            PublicAddress(
                network="public",
                address=one,
                mode="routed" if one in routed else "nat",
                bridge=bridge,
            )
            for one in (*addresses, *routed)
        ],
        egress=list(egress),
        forwards=[
            Forward(cluster=cluster, vmid=vmid, host_port=port, port=to) for port, to in forwards
        ],
    )


@contextlib.asynccontextmanager
async def all_places() -> AsyncIterator[Places]:
    """Torn down at the end, when nothing of it may be left."""
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
