"""A virtual cluster's cable to the way out (net/world.py), and what passes it.

Functions block, and change the namespace of the thread that calls them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Mapping

from copper.model.errors import CopperError
from copper.model.networks import Exposure
from copper.net import in_force, namespaces, netlink, routes, sysctl, translation
from copper.net.addresses import ipv6_of
from copper.net.netlink import Netlink
from copper.net.nft import Nft, Table
from copper.net.private import PrivateNetwork
from copper.net.translation import DOOR, INNER, OUTER, ROUTER_LINK

NO_CONNECTIONS = (errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP)
LINK_BITS = 64  # of the addresses of a cable for IPv6
Exposures = Mapping[int, Exposure]  # by vmid


class Door:
    """One virtual cluster's. `number` is its device's in the way out, `link` its address there."""

    def __init__(self, network: PrivateNetwork, number: int, nft: Nft) -> None:
        self.network = network
        self.number = number
        self.link = translation.link_of(number)
        self.table = Table(translation.CLUSTER_TABLE, nft, translation.cluster_rules(self.link))
        self._connections = Netlink(routes.NETFILTER)
        self._had: dict[int, Exposure | None] = {}  # None: an earlier agent's

    @classmethod
    def open(cls, network: PrivateNetwork, cluster: str, router: Netlink, way_out: str) -> Door:
        """Makes what is not there yet. `router` and `way_out`: the way out's socket and name."""
        far = far_end(cluster)
        namespaces.enter(network.name)
        number, near = router.links().get(far), network.socket.links().get(DOOR)
        if number is None or near is None:
            if number is not None:
                router.ask(netlink.remove(number), fine=routes.GONE)
            elif near is not None:  # it led to a way out that has gone
                network.socket.ask(netlink.remove(near), fine=routes.GONE)
            there = namespaces.descriptor(way_out)
            try:
                network.socket.ask(routes.add_cable(DOOR, far, there))
            finally:
                os.close(there)
            number, near = router.links()[far], network.socket.links()[DOOR]
        door = cls(network, number, Nft())
        held = door.table.held()
        if not held:
            door.table.nft.run(door.table.rules)  # nothing passes before it is asked whether it may
        door._had = dict.fromkeys(in_force.marked(held).values())
        door._lead(near, far, router, way_out)
        return door

    def _lead(self, near: int, far: str, router: Netlink, way_out: str) -> None:
        """Both ends have their addresses, and what is for the world goes through."""
        socket = self.network.socket
        sysctl.forward6()
        six = sysctl.speak6(DOOR)
        namespaces.enter(way_out)
        sysctl.speak6(far)
        namespaces.enter(self.network.name)
        router.ask(routes.add_end(self.number, ROUTER_LINK, self.link), netlink.set_up(far))
        socket.ask(
            routes.add_end(near, self.link, ROUTER_LINK),
            netlink.set_up(DOOR),
            routes.add_route("", ROUTER_LINK, near),
            *routes.add_marked_route(ROUTER_LINK, near, translation.ANSWERS),
            fine=(errno.EEXIST,),
        )
        if six:
            router.ask(netlink.add_address(self.number, OUTER, LINK_BITS))
            socket.ask(
                netlink.add_address(near, INNER, LINK_BITS), routes.add_route("", OUTER, near)
            )

    def load(self, exposures: Exposures) -> None:
        """Has these be all that is in force. Raises OSError, CopperError."""
        self.network.allow({vmid: one.routed for vmid, one in exposures.items()})
        self.table.hold(translation.cluster_elements(exposures))
        self.network.route(
            {
                address: ipv6_of(vmid) if ":" in address else one.private
                for vmid, one in exposures.items()
                for address in one.routed
            }
        )
        for vmid, had in self._had.items():
            # whoever has its address next is not taken for it
            if vmid not in exposures or (had and translation.takes_back(had, exposures[vmid])):
                mark = translation.mark_of(vmid)
                self._connections.ask(routes.forget_connections(mark), fine=NO_CONNECTIONS)
        self._had = dict(exposures)

    def close(self) -> None:
        """Lets go of it; it stays."""
        self.table.nft.close()
        self._connections.close()

    def shut(self) -> None:
        """Nothing passes any more; the cable is the way out's to remove."""
        with contextlib.suppress(OSError, CopperError):
            self.network.allow({})
            self.network.route({})
        with contextlib.suppress(CopperError):
            self.table.nft.run(f"delete table {translation.CLUSTER_TABLE}")
        self.close()


def far_end(cluster: str) -> str:
    """The name of a door's other end: as long as a device's may be, and found again."""
    return "w" + hashlib.sha256(cluster.encode()).hexdigest()[:12]
