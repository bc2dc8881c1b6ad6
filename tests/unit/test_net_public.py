"""Public addresses as the kernel has them: who reaches a VM from where, and that nothing is left.

A namespace stands for each VM, behind a cable where QEMU would hold a tap, and one for the host: nothing leaves them.
Where a process may not make namespaces, or nft is missing, they are skipped.
"""

from __future__ import annotations

import contextlib
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

from copper.model.networks import Exposure, Forward, Mode, PublicAddress
from copper.net import namespaces, netlink, routes
from copper.net.addresses import GATEWAY, ipv4_of, mac_of
from copper.net.filter import tap_name
from copper.net.netlink import Netlink
from copper.net.networks import Networks
from copper.net.nft import Nft
from copper.net.private import open_lone_tap

T = TypeVar("T")
ANSWERED_S = 5.0
REFUSED_S = 0.3
ONE, TWO, THREE = "198.51.100.10", "198.51.100.11", "198.51.100.12"
HOST = "192.0.2.1"  # the host's own, as the namespace that stands for it has it
NEIGHBOUR = "192.0.2.77"  # on the host's wire


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
        self.sysctl(self.host, "conf/br0/forwarding", "1")
        self.sysctl(self.host, "neigh/br0/proxy_delay", "0")
        # it finds public addresses on the wire, as all that share a network with them do
        within(self.neighbour, lambda: self._on_wire("198.51.100.1"))
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

    def _on_wire(self, address: str) -> None:
        link = Netlink()
        link.ask(netlink.add_address(netlink.index_of("eth0"), address, 24))
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
            await self.end(cluster, vmid)
        self.networks.close()
        for name in self.made:
            namespaces.remove(name)

    def listen(self, where: str, port: int = 80, host: str = "0.0.0.0") -> socket.socket:
        sock = within(where, lambda: socket.create_server((host, port)))
        sock.settimeout(ANSWERED_S)
        self.sockets.append(sock)
        return sock

    def connect(
        self, where: str, address: str, port: int = 80, timeout: float = ANSWERED_S
    ) -> socket.socket:
        sock = within(where, lambda: socket.socket())
        self.sockets.append(sock)
        sock.settimeout(timeout)
        sock.connect((address, port))
        return sock

    def reaches(self, where: str, address: str, listener: socket.socket, port: int = 80) -> str:
        """Whose connection the listener sees, by its address; nothing else answers."""
        client = self.connect(where, address, port)
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
