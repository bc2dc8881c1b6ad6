"""The way out of all virtual clusters of one Copper: a namespace between theirs and the host, `copper-INSTANCE`.

    virtual cluster's namespace        copper-INSTANCE               the host
    copper (bridge) -- world ========= w…   up ===================== cp-INSTANCE -- br0, eth0, …

Virtual clusters reach each other by public addresses there, whatever the host lets through. On the host there are one
device, a route for each public address, and one table of nftables. What is there is read from the kernel, so that a
new agent puts right what an earlier one left. Functions block, and change the namespace of the thread that calls them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping

from copper.model.errors import CopperError, Refused
from copper.model.networks import Exposure
from copper.net import in_force, namespaces, netlink, routes, sysctl, translation
from copper.net.netlink import Netlink
from copper.net.nft import Nft
from copper.net.private import PrivateNetwork
from copper.net.translation import DOOR, ROUTER_LINK, UP

NO_CONNECTIONS = (errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP)
MANY = 64  # messages at a time: answers of more might not fit the socket
Exposures = Mapping[int, Exposure]  # by vmid


@dataclasses.dataclass
class _Table:
    """A table of nftables, and the rules that it is made with."""

    nft: Nft
    rules: str
    is_made: bool = False  # by this agent: an earlier one's may have had other rules

    def hold(self, elements: str) -> None:
        """Changes what it holds, in one step; one that somebody removed is made again."""
        if self.is_made:
            with contextlib.suppress(CopperError):
                self.nft.run(elements)
                return
        self.nft.run(self.rules + elements)
        self.is_made = True


@dataclasses.dataclass
class _Door:
    """A virtual cluster's cable to the way out; `number` is its device's there."""

    number: int
    link: str
    table: _Table
    connections: Netlink
    had: dict[int, Exposure | None]  # None: an earlier agent's

    def load(self, exposures: Exposures) -> None:
        self.table.hold(translation.cluster_elements(exposures))
        for vmid, had in self.had.items():
            # whoever has its address next is not taken for it
            if vmid not in exposures or (had and translation.takes_back(had, exposures[vmid])):
                mark = translation.mark_of(vmid)
                self.connections.ask(routes.forget_connections(mark), fine=NO_CONNECTIONS)
        self.had = dict(exposures)

    def close(self) -> None:
        self.table.nft.close()
        self.connections.close()


@dataclasses.dataclass
class _Host:
    """The host's end: `device` is its cable's, `uplink` the address at the other end."""

    link: Netlink
    table: _Table
    device: int
    uplink: str


@dataclasses.dataclass
class _Router:
    """The namespace in the middle."""

    link: Netlink
    table: _Table


class World:
    """Brings exposures into force. `outside` is the namespace that is the host's; without a name, the process's."""

    def __init__(
        self, instance: str, network_of: Callable[[str], PrivateNetwork], outside: str = ""
    ) -> None:
        self.name = f"copper-{instance}"
        self.device = f"cp-{instance}"[:15]
        self.table = f"ip copper-{instance}"
        self._network_of = network_of
        self._outside = outside
        self._router: _Router | None = None
        self._host: _Host | None = None
        self._doors: dict[str, _Door] = {}
        self._exposures: dict[str, Exposures] = {}

    def check(self, exposure: Exposure) -> None:
        """Raises Refused for what this host cannot do."""
        for one in exposure.addresses:
            if one.mode != "nat":
                raise Refused(
                    f"this host does not route {one.address} to VM {exposure.vm}: it only translates",
                    advice="copper network create --nat",
                )
            if ":" in one.address:
                raise Refused(
                    f"this host does not bring {one.address} to VM {exposure.vm}: only IPv4",
                    advice="copper network create with a pool of IPv4 only",
                )
            if one.bridge:
                self._check_bridge(one.bridge, exposure.vm)
        for prefix in exposure.egress:
            if ":" in prefix and prefix != "::/0":
                raise Refused(f"this host lets VMs out to IPv4 only, not to {prefix}")

    def _check_bridge(self, bridge: str, vm: str) -> None:
        self._go_outside()
        if not sysctl.read(f"ipv4/conf/{bridge}/forwarding"):
            raise Refused(
                f"this host has no device {bridge}", advice="copper network create --bridge"
            )
        # replies come in by another device: all have to
        if sysctl.read("ipv4/ip_forward") != "1":
            raise Refused(
                f"this host does not forward: nobody on {bridge} would reach VM {vm}",
                advice="sysctl -w net.ipv4.ip_forward=1",
            )

    def apply(self, changed: Mapping[str, Exposures]) -> None:
        """Has these virtual clusters' exposures be all that is in force for them. Raises OSError, CopperError."""
        before = dict(self._exposures)
        try:
            self._apply(changed)
        except BaseException:
            self._exposures = before  # others' changes do not fail for it
            raise

    def _apply(self, changed: Mapping[str, Exposures]) -> None:
        for cluster, exposures in changed.items():
            if exposures:
                self._open()
                self._door(cluster).load(exposures)
                self._exposures[cluster] = exposures
            else:
                self._exposures.pop(cluster, None)
        if self._exposures:
            self._settle()
        elif self.is_there:
            self._open()
            self._settle()
        for cluster in changed:
            if cluster not in self._exposures:
                self._shut(cluster)
        if not self._exposures:
            self._remove()

    def close(self) -> None:
        """Lets go of all; it stays in force."""
        for door in self._doors.values():
            door.close()
        self._doors.clear()
        for end in (self._router, self._host):
            if end is not None:
                end.link.close()
                end.table.nft.close()
        self._router = self._host = None

    # the way out

    def _go_outside(self) -> None:
        if self._outside:
            namespaces.enter(self._outside)
        else:
            namespaces.go_home()

    @property
    def is_there(self) -> bool:
        """Whether there is a way out, this agent's or an earlier one's."""
        return self._router is not None or (namespaces.FOLDER / self.name).exists()

    def _open(self) -> None:
        if self._router is not None:
            return
        self._go_outside()
        host, host_nft = Netlink(), Nft()
        router: Netlink | None = None
        try:
            with contextlib.suppress(FileNotFoundError):
                namespaces.enter(self.name)
                router = Netlink()
            device = host.links().get(self.device)
            if router is None or device is None or UP not in router.links():
                router, device = self._make(host, device)
            near, far = translation.uplink_of(device)
            up = router.links()[UP]
            host.ask(routes.add_end(device, near, far), netlink.set_up(self.device))
            router.ask(
                routes.add_end(up, far, near), netlink.set_up(UP), routes.add_route("", near, up)
            )
            namespaces.enter(self.name)
            self._router = _Router(router, _Table(Nft(), translation.router_rules(far)))
        except BaseException:
            host.close()
            host_nft.close()
            if router is not None:
                router.close()
            raise
        rules = translation.host_rules(self.table, self.device, far)
        self._host = _Host(host, _Table(host_nft, rules), device, far)

    def _make(self, host: Netlink, device: int | None) -> tuple[Netlink, int]:
        if device is not None:
            host.ask(netlink.remove(device), fine=routes.GONE)
        namespaces.remove(self.name)
        outside = namespaces.descriptor(self._outside)
        try:
            with namespaces.made(self.name):
                sysctl.write("ipv6/conf/default/disable_ipv6", "1")
                if not sysctl.forward():
                    raise CopperError("this host lets no namespace forward what is for others")
                router = Netlink()
                try:
                    router.ask(netlink.set_up("lo"), routes.add_cable(UP, self.device, outside))
                except BaseException:
                    router.close()
                    raise
        finally:
            os.close(outside)
        return router, host.links()[self.device]

    def _remove(self) -> None:
        """All of it; a virtual cluster's cable goes with its other end."""
        if not self.is_there:
            return
        self._open()
        assert self._host is not None
        with contextlib.suppress(CopperError):
            self._host.table.nft.run(f"delete table {self.table}")
        self._host.link.ask(netlink.remove(self._host.device), fine=routes.GONE)
        self.close()
        namespaces.go_home()
        namespaces.remove(self.name)

    # doors

    def _door(self, cluster: str) -> _Door:
        if cluster not in self._doors:
            self._doors[cluster] = self._open_door(cluster)
        return self._doors[cluster]

    def _open_door(self, cluster: str) -> _Door:
        assert self._router is not None
        network, far, router = self._network_of(cluster), _far_end(cluster), self._router.link
        namespaces.enter(network.name)
        number, near = router.links().get(far), network.socket.links().get(DOOR)
        if number is None or near is None:
            if number is not None:
                router.ask(netlink.remove(number), fine=routes.GONE)
            elif near is not None:  # it led to a way out that has gone
                network.socket.ask(netlink.remove(near), fine=routes.GONE)
            way_out = namespaces.descriptor(self.name)
            try:
                network.socket.ask(routes.add_cable(DOOR, far, way_out))
            finally:
                os.close(way_out)
            number, near = router.links()[far], network.socket.links()[DOOR]
        link, nft = translation.link_of(number), Nft()
        rules = translation.cluster_rules(link)
        there = in_force.held(nft, translation.CLUSTER_TABLE)
        if not there:
            nft.run(rules)  # nothing passes before it is asked whether it may
        router.ask(routes.add_end(number, ROUTER_LINK, link), netlink.set_up(far))
        network.socket.ask(
            routes.add_end(near, link, ROUTER_LINK),
            netlink.set_up(DOOR),
            routes.add_route("", ROUTER_LINK, near),
            *routes.add_marked_route(ROUTER_LINK, near, translation.ANSWERS),
            fine=(errno.EEXIST,),
        )
        had = dict.fromkeys(in_force.marked(there).values())
        return _Door(number, link, _Table(nft, rules), Netlink(routes.NETFILTER), had)

    def _shut(self, cluster: str) -> None:
        door = self._doors.pop(cluster, None)
        if door is not None:
            with contextlib.suppress(CopperError):
                door.table.nft.run(f"delete table {translation.CLUSTER_TABLE}")
            door.close()
        if self._router is not None:
            number = self._router.link.links().get(_far_end(cluster))
            if number is not None:
                self._router.link.ask(netlink.remove(number), fine=routes.GONE)

    # what leads to the doors

    def _settle(self) -> None:
        """Has routes and ports be as all exposures say, and no others."""
        assert self._router is not None and self._host is not None
        inner: dict[tuple[str, int], str] = {}
        outer: dict[tuple[str, int], str] = {}
        answered: set[tuple[str, int]] = set()
        ports: dict[tuple[str, int], str] = {}
        devices = self._host.link.links()
        for cluster, exposures in self._exposures.items():
            door = self._doors[cluster]
            for exposure in exposures.values():
                for one in exposure.addresses:
                    inner[one.address, door.number] = door.link
                    outer[one.address, self._host.device] = self._host.uplink
                    if one.bridge in devices:
                        answered.add((one.address, devices[one.bridge]))
                for forward in exposure.forwards:
                    ports[forward.protocol, forward.host_port] = door.link
        router, host = self._router, self._host
        router.table.hold(translation.router_elements(ports))
        _have_routes(router.link, inner, routes.routes(router.link))
        had = {one for one in routes.routes(host.link) if one[1] == host.device}
        ours = {address for address, _ in (*had, *outer)}
        for address, device in routes.answered_for(host.link):
            if address in ours and (address, device) not in answered:
                host.link.ask(routes.no_longer_answer_for(address, device), fine=routes.GONE)
        _have_routes(host.link, outer, had)
        _ask_all(host.link, [routes.answer_for(*one) for one in sorted(answered)])
        host.table.hold(translation.host_elements(self.table, ports))

    # what is in force

    def found(self, clusters: Iterable[str]) -> dict[str, dict[int, str]]:
        """What is in force for whom, in one line for each VM; read from the kernel."""
        if not self.is_there:
            return {}
        self._open()
        assert self._router is not None and self._host is not None
        led = in_force.Led.read(
            (self._router.link, self._router.table.nft, translation.ROUTER_TABLE),
            (self._host.link, self._host.table.nft, self.table),
        )
        found = {}
        for cluster in clusters:
            told = self._exposures.get(cluster, {})
            if cluster in self._doors:
                found[cluster] = in_force.lines(self._doors[cluster].table.nft, led, told)
            else:
                with contextlib.suppress(FileNotFoundError):
                    namespaces.enter(f"{self.name}-{cluster}")
                    with contextlib.closing(Nft()) as nft:
                        found[cluster] = in_force.lines(nft, led, told)
        return {cluster: lines for cluster, lines in found.items() if lines}

    @property
    def is_used(self) -> bool:
        """Whether a VM needs the way out."""
        return bool(self._exposures)


def _far_end(cluster: str) -> str:
    """The name of a door's other end: as long as a device's may be, and found again."""
    return "w" + hashlib.sha256(cluster.encode()).hexdigest()[:12]


def _have_routes(
    link: Netlink, wanted: Mapping[tuple[str, int], str], had: set[tuple[str, int]]
) -> None:
    _ask_all(link, [routes.remove_route(*one) for one in sorted(had - wanted.keys())])
    new = sorted(wanted.keys() - had)
    try:
        _ask_all(link, [routes.add_route(one[0], wanted[one], one[1]) for one in new])
    except FileExistsError:
        raise Refused(
            f"this host has a way to {' or '.join(one[0] for one in new[:5])} already"
        ) from None


def _ask_all(link: Netlink, messages: list[netlink.Message]) -> None:
    for begin in range(0, len(messages), MANY):
        link.ask(*messages[begin : begin + MANY], fine=routes.GONE)
