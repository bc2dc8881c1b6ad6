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
import os
from collections.abc import Callable, Iterable, Mapping

from copper.model.errors import CopperError, Refused
from copper.model.networks import Exposure
from copper.net import in_force, namespaces, netlink, routes, sysctl, translation
from copper.net.door import LINK_BITS, Door, Exposures, far_end
from copper.net.netlink import Netlink
from copper.net.nft import Nft, Table
from copper.net.private import PrivateNetwork
from copper.net.translation import INNER, OUTER, UP


@dataclasses.dataclass
class _Host:
    """The host's end: `device` is its cable's, `uplink` the address at the other end."""

    link: Netlink
    table: Table
    device: int
    uplink: str


@dataclasses.dataclass
class _Router:
    """The namespace in the middle."""

    link: Netlink
    table: Table


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
        self._doors: dict[str, Door] = {}
        self._exposures: dict[str, Exposures] = {}

    def check(self, exposure: Exposure) -> None:
        """Raises Refused for what this host cannot do."""
        for one in exposure.addresses:
            if ":" in one.address and one.mode == "nat":
                raise Refused(f"this host translates no IPv6, such as {one.address}")
            if ":" in one.address and not self._outside_says("ipv6/conf/all/forwarding"):
                raise Refused(f"this host has no IPv6: {one.address} reaches nobody")
            if one.bridge:
                self._check_bridge(one.bridge, exposure.vm, six=":" in one.address)

    def _outside_says(self, setting: str) -> str:
        self._go_outside()
        return sysctl.read(setting)

    def _check_bridge(self, bridge: str, vm: str, *, six: bool) -> None:
        family = "ipv6" if six else "ipv4"
        if not self._outside_says(f"{family}/conf/{bridge}/forwarding"):
            raise Refused(
                f"this host has no device {bridge}", advice="copper network create --bridge"
            )
        # replies come in by another device: all have to
        needs = [f"{family}/conf/all/forwarding"]
        if six and self._outside_says("ipv6/conf/all/proxy_ndp") != "1":
            needs.append(f"ipv6/conf/{bridge}/proxy_ndp")  # whether it may answer for others
        for need in needs:
            if self._outside_says(need) != "1":
                raise Refused(
                    f"this host does not forward: nobody on {bridge} would reach VM {vm}",
                    advice=f"sysctl -w net.{need.replace('/', '.')}=1",
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
            self._go_outside()
            six = sysctl.speak6(self.device)
            host.ask(routes.add_end(device, near, far), netlink.set_up(self.device))
            namespaces.enter(self.name)
            sysctl.speak6(UP)
            router.ask(
                routes.add_end(up, far, near), netlink.set_up(UP), routes.add_route("", near, up)
            )
            if six and sysctl.forward6():
                host.ask(netlink.add_address(device, OUTER, LINK_BITS))
                router.ask(
                    netlink.add_address(up, INNER, LINK_BITS), routes.add_route("", OUTER, up)
                )
            rules = translation.router_rules(far)
            self._router = _Router(router, Table(translation.ROUTER_TABLE, Nft(), rules))
        except BaseException:
            host.close()
            host_nft.close()
            if router is not None:
                router.close()
            raise
        rules = translation.host_rules(self.table, self.device, far)
        self._host = _Host(host, Table(self.table, host_nft, rules), device, far)

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

    def _door(self, cluster: str) -> Door:
        if cluster not in self._doors:
            assert self._router is not None
            network = self._network_of(cluster)
            self._doors[cluster] = Door.open(network, cluster, self._router.link, self.name)
        return self._doors[cluster]

    def _shut(self, cluster: str) -> None:
        door = self._doors.pop(cluster, None)
        if door is not None:
            door.shut()
        if self._router is not None:
            number = self._router.link.links().get(far_end(cluster))
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
                    six = ":" in one.address
                    inner[one.address, door.number] = INNER if six else door.link
                    outer[one.address, self._host.device] = INNER if six else self._host.uplink
                    if one.bridge in devices:
                        answered.add((one.address, devices[one.bridge]))
                for forward in exposure.forwards:
                    ports[forward.protocol, forward.host_port] = door.link
        router, host = self._router, self._host
        router.table.hold(translation.router_elements(ports))
        routes.have(router.link, inner, routes.routes(router.link))
        had = {one for one in routes.routes(host.link) if one[1] == host.device}
        ours = {address for address, _ in (*had, *outer)}
        for address, device in routes.answered_for(host.link):
            if address in ours and (address, device) not in answered:
                host.link.ask(routes.no_longer_answer_for(address, device), fine=routes.GONE)
        routes.have(host.link, outer, had)
        routes.ask_all(host.link, [routes.answer_for(*one) for one in sorted(answered)])
        host.table.hold(translation.host_elements(self.table, ports))

    # what is in force

    def found(self, clusters: Iterable[str]) -> dict[str, dict[int, str]]:
        """What is in force for whom, in one line for each VM; read from the kernel."""
        if not self.is_there:
            return {}
        self._open()
        assert self._router is not None and self._host is not None
        led = in_force.Led.read(
            (self._router.link, self._router.table), (self._host.link, self._host.table)
        )
        found = {}
        for cluster in clusters:
            told = self._exposures.get(cluster, {})
            with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as done:
                if cluster in self._doors:
                    door = self._doors[cluster]
                    network, table = door.network, door.table
                else:  # an earlier agent's
                    network = PrivateNetwork.find(f"{self.name}-{cluster}")
                    done.callback(network.close)
                    table = Table(translation.CLUSTER_TABLE, Nft(), translation.cluster_rules(""))
                    done.callback(table.nft.close)
                found[cluster] = in_force.lines(table.held(), led, network.routed(), told)
        return {cluster: lines for cluster, lines in found.items() if lines}

    @property
    def is_used(self) -> bool:
        """Whether a VM needs the way out."""
        return bool(self._exposures)
