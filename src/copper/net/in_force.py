"""What the kernel lets in and out for each VM, read back: an audit compares it with what was decided."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping, Set
from typing import Any, cast

from copper.model.networks import Exposure, Forward, Mode, Protocol, PublicAddress
from copper.net import routes
from copper.net.netlink import Netlink
from copper.net.nft import Table
from copper.net.translation import ANYWHERE, ANYWHERE6, ways_of

Held = dict[str, list[Any]]  # by set or map
Port = tuple[str, int]


@dataclasses.dataclass
class _State:
    """Of one VM; `ports` with the VM's own."""

    addresses: list[tuple[str, Mode]] = dataclasses.field(default_factory=list)
    ways: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # from each of its own
    ports: list[tuple[str, int, int]] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, exposure: Exposure) -> _State:
        ports = [(one.protocol, one.host_port, one.port) for one in exposure.forwards]
        addresses = [(one.address, one.mode) for one in exposure.addresses]
        return cls(sorted(addresses), sorted(ways_of(exposure)), sorted(ports))

    def summary(self) -> str:
        """In the words of an exposure."""
        return Exposure(
            vm="",
            cluster="",
            private="",
            addresses=[
                PublicAddress(network="", address=one, mode=mode) for one, mode in self.addresses
            ],
            egress=list(dict.fromkeys(way for _, way in self.ways)),
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
    def read(cls, *places: tuple[Netlink, Table]) -> Led:
        """Through all of these places."""
        addresses = [{one for one, _ in routes.routes(link)} for link, _ in places]
        ports = [_ports(table.held()) for _, table in places]
        return cls(frozenset(set.intersection(*addresses)), frozenset(set.intersection(*ports)))


def marked(there: Held) -> dict[str, int]:
    """The vmids that a virtual cluster's table knows, by all that they send as."""
    marks = (*there.get("marks", []), *there.get("marks6", []))
    return {own: int(mark) - 1 for own, mark in marks}


def lines(there: Held, led: Led, routed: Set[str], told: Mapping[int, Exposure]) -> dict[int, str]:
    """What is in force for each VM of a virtual cluster, in the words of what was told where it is that.

    `there`: what its table holds; `routed`: the addresses that lead on to VMs behind its door.
    """
    vmids = marked(there)
    states = {vmid: _State() for vmid in vmids.values()}
    for address, private in there.get("to_vm", []):
        if private in vmids and address in led.addresses:
            states[vmids[private]].addresses.append((address, "nat"))
    for address in (*there.get("routed", []), *there.get("routed6", [])):
        if address in vmids and address in led.addresses & routed:
            states[vmids[address]].addresses.append((address, "routed"))
    for name, way in (("open", ANYWHERE), ("open6", ANYWHERE6)):
        for own in there.get(name, []):
            if own in vmids:
                states[vmids[own]].ways.append((own, way))
    for one in (*there.get("ways", []), *there.get("ways6", [])):
        own, way = one["concat"]
        if own in vmids:
            states[vmids[own]].ways.append((own, _prefix(way)))
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
        return f"{way}/{128 if ':' in way else 32}"
    if "prefix" in way:
        return f"{way['prefix']['addr']}/{way['prefix']['len']}"
    first, last = (cast(Any, ipaddress.ip_address(one)) for one in way["range"])
    return ",".join(str(one) for one in ipaddress.summarize_address_range(first, last))


def _ports(there: Held) -> set[Port]:
    """Of the keys of a map, or of the elements of a set."""
    keys = (one[0] if isinstance(one, list) else one for one in there.get("ports", []))
    return {(str(key["concat"][0]), int(key["concat"][1])) for key in keys}
