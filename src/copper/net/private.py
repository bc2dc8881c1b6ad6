"""The private network of one virtual cluster on this host: a namespace, a bridge in it, a tap for each VM.

Its functions block, and change the namespace of the thread that calls them: a thread of its own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from copper.model.errors import CopperError
from copper.net import echo, filter, namespaces, netlink, routes, sysctl
from copper.net.addresses import (
    GATEWAY,
    GATEWAY6,
    PREFIX6,
    WIDEST,
    ipv4_of,
    ipv6_of,
    mac_of,
)
from copper.net.filter import tap_name, vmid_of
from copper.net.netlink import Netlink
from copper.net.nft import Nft

log = logging.getLogger(__name__)

BRIDGE = "copper"
BRIDGE_MAC = "02:63:6f:70:70:72"
NO_TAP = "it has no tap"
BRIDGE_S = 5.0
BLOCK = 64  # vmids that are made known together
_TUNSETIFF, _TUNSETVNETHDRSZ = 0x400454CA, 0x400454D8
_TAP, _NO_PI, _VNET_HDR = 0x0002, 0x1000, 0x4000
_VNET_HDR_BYTES = 12  # what QEMU and a guest of virtio 1.0 agree on


def open_tap(name: str) -> int:
    """A tap in this thread's namespace, down: it goes with the last copy of its descriptor. Raises OSError."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        flags = _TAP | _NO_PI | _VNET_HDR
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("=16sH22x", name.encode(), flags))
        fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("=i", _VNET_HDR_BYTES))
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_lone_tap() -> int:
    """A tap that leads nowhere, in a namespace that goes with it: for a QEMU that is no VM yet. Raises OSError."""
    made: list[int | OSError] = []

    def make() -> None:
        try:
            namespaces.new_thread_namespace()
            made.append(open_tap("lone"))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


class PrivateNetwork:
    """One virtual cluster's. Made by `open`; `close` lets go of it and leaves it there."""

    def __init__(self, name: str, socket: Netlink, bridge: int) -> None:
        self.name = name
        self.socket = socket
        self._bridge = bridge
        self._operates = False  # whether the bridge was seen to
        self._blocks: set[int] = set()
        self._routed: dict[int, list[str]] | None = None  # None: as an earlier agent had it
        self._nft: Nft | None = None

    @classmethod
    def open(cls, name: str) -> PrivateNetwork:
        """The one of this name, made if there is none. Raises OSError, CopperError."""
        with contextlib.suppress(FileNotFoundError):
            return cls.find(name)
        with namespaces.made(name):
            sysctl.write("ipv6/conf/default/disable_ipv6", "1")  # a port of a bridge has no address
            sysctl.forward()  # a VM is told at once where it cannot go
            socket = Netlink()
            try:
                socket.ask(netlink.set_up("lo"), netlink.add_bridge(BRIDGE, BRIDGE_MAC))
                bridge = _start_bridge(socket)
                filter.load(filter.RULES)
            except BaseException:
                socket.close()
                raise
        return cls(name, socket, bridge)

    @classmethod
    def find(cls, name: str) -> PrivateNetwork:
        """Raises FileNotFoundError, OSError."""
        namespaces.enter(name)
        bridge = netlink.index_of(BRIDGE)
        return cls(name, Netlink(), bridge)

    def tap(self, vmid: int) -> int:
        """The descriptor of this VM's tap, which is down and on no bridge yet. Raises OSError, CopperError."""
        namespaces.enter(self.name)
        self._know(vmid // BLOCK)
        return open_tap(tap_name(vmid))

    def _know(self, block: int) -> None:
        """Who these VMs are, there or not: what may come from their taps, and who has which address."""
        if block in self._blocks:
            return
        filter.load(filter.elements(_vmids(block)))
        self._neighbours(block)
        self._blocks.add(block)

    def _neighbours(self, block: int) -> None:
        for vmid in _vmids(block):
            mac = mac_of(vmid)
            self.socket.ask(
                netlink.add_neighbour(self._bridge, ipv4_of(vmid), mac),
                netlink.add_neighbour(self._bridge, ipv6_of(vmid), mac),
                fine=(errno.EAFNOSUPPORT, errno.EOPNOTSUPP),
            )

    def link_up(self, vmid: int) -> None:
        """From now on this VM is on the wire; again: no difference. Raises OSError: ENODEV when it has no tap."""
        namespaces.enter(self.name)
        name = tap_name(vmid)
        port = netlink.index_of(name)
        with contextlib.ExitStack() as closing:
            news = None
            if not self._operates:
                news = closing.enter_context(contextlib.closing(Netlink(groups=netlink.LINKS)))
            self.socket.ask(
                netlink.into_bridge(name, self._bridge),
                netlink.keep_quiet(port),
                netlink.add_station(port, mac_of(vmid)),
                netlink.set_up(name),
            )
            if news is not None:
                self._await_bridge(news)

    def _await_bridge(self, news: Netlink) -> None:
        """The kernel drops what the host says to its first VM until it has seen, in its own time, that a port is up."""
        deadline = time.monotonic() + BRIDGE_S
        while not self.socket.operates(self._bridge):
            if not news.wait(deadline - time.monotonic()):
                log.warning("the bridge of %s does not begin to send", self.name)
                return
        self._operates = True

    def new_socket(self) -> socket.socket:
        """A TCP socket that does not block: what it connects to is of this network, in whatever thread."""
        namespaces.enter(self.name)
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        return sock

    def new_echo_socket(self) -> socket.socket:
        """As `new_socket`, for echoes (copper.net.echo)."""
        namespaces.enter(self.name)
        return echo.new_socket()

    def taps(self) -> list[int]:
        """The vmids that have one."""
        vmids = map(vmid_of, self.socket.links())
        return sorted(vmid for vmid in vmids if vmid is not None)

    def remove_tap(self, vmid: int) -> None:
        """None: nothing to do."""
        namespaces.enter(self.name)
        with contextlib.suppress(FileNotFoundError):
            index = netlink.index_of(tap_name(vmid))
            self.socket.ask(netlink.remove(index), fine=(errno.ENODEV,))

    # addresses of the world that VMs have besides

    def allow(self, routed: Mapping[int, Sequence[str]]) -> None:
        """What VMs may send as besides their own addresses, and nothing else, by vmid. Raises CopperError."""
        now = {vmid: list(mine) for vmid, mine in routed.items() if mine}
        if self._routed == now == {}:
            return  # as in most
        try:
            self._rules.run(filter.routed(now))
        except CopperError:  # they are not there, or an earlier Copper's
            self._filter_again(now)
        self._routed = now

    def route(self, ways: Mapping[str, str]) -> None:
        """Where addresses of the world lead to, by address: VMs' own. Raises Refused, OSError."""
        wanted = {(address, self._bridge): via for address, via in ways.items()}
        routes.have(self.socket, wanted, self._routes())

    def routed(self) -> set[str]:
        """The addresses of the world that lead to VMs here, and that they may send as."""
        return {address for address, _ in self._routes()} & set(self._may_send_as())

    def _routes(self) -> set[tuple[str, int]]:
        return {one for one in routes.routes(self.socket) if one[1] == self._bridge}

    def _may_send_as(self) -> list[str]:
        held = self._rules.held(filter.TABLE, filter.RULES)
        pairs = (one["concat"] for name in ("routed", "routed6") for one in held.get(name, []))
        return [str(ipaddress.ip_address(address)) for _, address in pairs]

    # what is put right

    @property
    def _rules(self) -> Nft:
        namespaces.enter(self.name)
        if self._nft is None:
            self._nft = Nft()
        return self._nft

    def _filter_again(self, routed: Mapping[int, Sequence[str]]) -> None:
        """What VMs may send, written anew in one step."""
        blocks = sorted(self._blocks | {vmid // BLOCK for vmid in (*self.taps(), *routed)})
        known = "".join(filter.elements(_vmids(block)) for block in blocks)
        self._rules.run(filter.RULES + known + filter.routed(routed))

    def off_wire(self, vmids: Iterable[int]) -> dict[int, str]:
        """What keeps those of these VMs from the others that are not on the wire, and held to what they may send."""
        ports = self.socket.ports()
        bridge = ports.get(BRIDGE)
        held = self._rules.held(filter.TABLE, filter.RULES)
        known = {one["concat"][0] for one in held.get("macs", [])}
        found: dict[int, str] = {}
        for vmid in vmids:
            port = ports.get(tap_name(vmid))
            if port is None:
                found[vmid] = NO_TAP
            elif bridge is None or not bridge.up:
                found[vmid] = "there is no bridge"
            elif port.master != bridge.number:
                found[vmid] = "its tap is not on the bridge"
            elif not port.up:
                found[vmid] = "its tap is down"
            elif tap_name(vmid) not in known:
                found[vmid] = "nothing says what it may send"
        return found

    def mend(self, vmid: int) -> None:
        """Has a VM's tap be on the wire again, and all that this needs. Raises OSError, CopperError.

        Ways of the world that led over a bridge that was removed are the caller's to make again.
        """
        namespaces.enter(self.name)
        self._filter_again(self._routed or {})
        self._bridge_again()
        self.link_up(vmid)

    def _bridge_again(self) -> None:
        there = self.socket.ports().get(BRIDGE)
        if there is not None and there.up:
            return
        if there is None:
            self.socket.ask(netlink.add_bridge(BRIDGE, BRIDGE_MAC))
        self._bridge, self._operates = _start_bridge(self.socket), False
        for block in self._blocks | {vmid // BLOCK for vmid in self.taps()}:
            self._neighbours(block)

    def close(self) -> None:
        self.socket.close()
        if self._nft is not None:
            self._nft.close()


def _start_bridge(socket: Netlink) -> int:
    """Its number. Of this thread's namespace; raises OSError."""
    bridge = netlink.index_of(BRIDGE)
    socket.ask(netlink.add_address(bridge, GATEWAY, WIDEST), netlink.set_up(BRIDGE))
    sysctl.write(f"ipv6/conf/{BRIDGE}/accept_ra", "0")  # nor does it ask for routers
    if sysctl.write(f"ipv6/conf/{BRIDGE}/disable_ipv6", "0"):
        socket.ask(netlink.add_address(bridge, GATEWAY6, PREFIX6))
    return bridge


def _vmids(block: int) -> range:
    return range(block * BLOCK, (block + 1) * BLOCK)
