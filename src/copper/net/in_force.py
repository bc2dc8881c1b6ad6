"""What the kernel lets in and out for each VM, read back: an audit compares it with what was decided."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from typing import Any, cast

from copper.model.errors import CopperError
from copper.model.networks import Exposure, Forward, Protocol, PublicAddress
from copper.net import routes
from copper.net.netlink import Netlink
from copper.net.nft import Nft
from copper.net.translation import ANYWHERE, CLUSTER_TABLE, addresses_of, ways_of

Held = dict[str, list[Any]]  # by set or map
Port = tuple[str, int]


@dataclasses.dataclass
class _State:
    """Of one VM; `ports` with the VM's own."""

    addresses: list[str] = dataclasses.field(default_factory=list)
    ways: list[str] = dataclasses.field(default_factory=list)
    ports: list[tuple[str, int, int]] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, exposure: Exposure) -> _State:
        ports = [(one.protocol, one.host_port, one.port) for one in exposure.forwards]
        return cls(sorted(addresses_of(exposure)), sorted(ways_of(exposure)), sorted(ports))

    def summary(self) -> str:
        """In the words of an exposure."""
        return Exposure(
            vm="",
            cluster="",
            private="",
            addresses=[
                PublicAddress(network="", address=one, mode="nat") for one in self.addresses
            ],
            egress=self.ways,
            forwards=[
                Forward(
                    cluster="", vmid=0, host_port=outer, port=inner, protocol=cast(Protocol, kind)
                )
                for kind, outer, inner in self.ports
            ],
        ).summary


@dataclasses.dataclass(frozen=True)
class Led:
    """What leads from the host as far as the virtual clusters' doors."""

    addresses: frozenset[str]
    ports: frozenset[Port]

    @classmethod
    def read(cls, *places: tuple[Netlink, Nft, str]) -> Led:
        """Through all of these places, each with its table."""
        addresses = [{one for one, _ in routes.routes(link)} for link, _, _ in places]
        ports = [_ports(held(nft, table)) for _, nft, table in places]
        return cls(frozenset(set.intersection(*addresses)), frozenset(set.intersection(*ports)))


def held(nft: Nft, table: str) -> Held:
    """What the sets and maps of a table hold; there is no such table: nothing."""
    try:
        return nft.elements(table)
    except CopperError:
        return {}


def marked(there: Held) -> dict[str, int]:
    """The vmids that a virtual cluster's table knows, by their private addresses."""
    return {private: int(mark) - 1 for private, mark in there.get("marks", [])}


def lines(nft: Nft, led: Led, told: Mapping[int, Exposure]) -> dict[int, str]:
    """What is in force for each VM of a virtual cluster, in the words of what was told where it is that."""
    there = held(nft, CLUSTER_TABLE)
    vmids = marked(there)
    states = {vmid: _State() for vmid in vmids.values()}
    for address, private in there.get("to_vm", []):
        if private in vmids and address in led.addresses:
            states[vmids[private]].addresses.append(address)
    for private in there.get("open", []):
        if private in vmids:
            states[vmids[private]].ways.append(ANYWHERE)
    for one in there.get("ways", []):
        private, way = one["concat"]
        if private in vmids:
            states[vmids[private]].ways.append(_prefix(way))
    for outer, inner in there.get("ports", []):
        (kind, port), (private, to) = outer["concat"], inner["concat"]
        if private in vmids and (kind, port) in led.ports:
            states[vmids[private]].ports.append((kind, port, to))
    found = {}
    for vmid, state in states.items():
        for values in (state.addresses, state.ways, state.ports):
            cast(list[Any], values).sort()
        known = vmid in told and state == _State.of(told[vmid])
        found[vmid] = told[vmid].summary if known else state.summary()
    return found


def _prefix(way: Any) -> str:
    if isinstance(way, str):
        return f"{way}/32"
    if "prefix" in way:
        return f"{way['prefix']['addr']}/{way['prefix']['len']}"
    first, last = (ipaddress.IPv4Address(one) for one in way["range"])
    return ",".join(str(one) for one in ipaddress.summarize_address_range(first, last))


def _ports(there: Held) -> set[Port]:
    """Of the keys of a map, or of the elements of a set."""
    keys = (one[0] if isinstance(one, list) else one for one in there.get("ports", []))
    return {(str(key["concat"][0]), int(key["concat"][1])) for key in keys}
