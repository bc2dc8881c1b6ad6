"""What each name means: a zone made of the controller's rows, without I/O.

`DOMAIN` stands for the domain's name, `VIEW` for the virtual cluster that asks, if one does:

NAME.DOMAIN, NAME     a virtual cluster: the addresses of all its VMs that run, by vmid
NAME-3.DOMAIN, NAME-3 one VM of it
…in-addr.arpa, …ip6.arpa   an address that a VM has: that VM's name

A virtual cluster is told the private addresses of its own VMs; all others, and of other VMs, public ones. What private
address is whose is never asked of anybody else.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

LIVE = ("starting", "running", "paused", "suspended")  # VMs whose names exist
# An answer is to be right 100 ms after a VM has come or gone, so nobody may keep one (RFC 1035, 3.2.1).
TTL_S = 0
# So many addresses fit one message over TCP, 28 bytes each for IPv6, whatever else is in it.
MOST_ADDRESSES = 2000
NAME_SERVER = "a.ns"  # below the domain; no virtual cluster can have a name of two labels
# Where the addresses of private networks have their names: 10.0.0.0/8 and fd00:c::/64.
PRIVATE = (
    ("10", "in-addr", "arpa"),
    (*"00000000c00000df", "ip6", "arpa"),
)
OPEN, NONE = "open", "none"

Labels = tuple[str, ...]


class Machine(NamedTuple):
    """A VM as far as its name goes."""

    name: str
    cluster: str
    vmid: int
    runs: bool
    created: float
    public: tuple[str, ...]
    private: tuple[str, ...]


class Meaning(NamedTuple):
    """What is known of a name in this zone. Without `exists` there is no such name."""

    apex: Labels  # of the zone that it is in, whose SOA goes with what is not there
    exists: bool = True
    addresses: tuple[str, ...] = ()
    names: Labels = ()  # of an address, as full names
    server: bool = False  # whether this is the name server itself


def machine_of(row: Mapping[str, Any]) -> Machine:
    """What a row of the API's VMs says. Addresses that are none are left out."""
    return Machine(
        str(row["name"]),
        str(row["cluster"]),
        int(row["vmid"]),
        row["state"] == "running",
        float(row["created"]),
        _addresses(row.get("public") or ()),
        _addresses([row.get("ip"), row.get("ip6")]),
    )


def _addresses(texts: Iterable[Any]) -> tuple[str, ...]:
    found = []
    for text in texts:
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(str(text))
            if getattr(address, "scope_id", None) is None:  # it would mean nothing elsewhere
                found.append(str(address))
    return tuple(found)


class Zone:
    """All names. `revision` grows with every change that can change an answer."""

    def __init__(self, domain: str = "clusters") -> None:
        self.domain: Labels = tuple(domain.lower().split("."))
        self.revision = 0
        self._created: dict[str, float] = {}  # of virtual clusters
        self._egress: dict[str, str] = {}  # open, none, or prefixes with commas
        self._machines: dict[str, Machine] = {}
        self._of: defaultdict[str, dict[int, Machine]] = defaultdict(dict)
        self._at: defaultdict[str, set[str]] = defaultdict(set)  # VMs by public address
        self._inside: defaultdict[tuple[str, str], set[str]] = defaultdict(set)

    # what comes from the controller

    def replace(
        self, clusters: Iterable[Mapping[str, Any]], vms: Iterable[Mapping[str, Any]]
    ) -> None:
        """Everything anew: what is not given is gone."""
        for index in (
            *(self._created, self._egress),
            *(self._machines, self._of, self._at, self._inside),
        ):
            index.clear()
        self.revision += 1
        for row in clusters:
            self.put("cluster", row)
        for row in vms:
            self.put("vm", row)

    def put(self, kind: str, row: Mapping[str, Any]) -> None:
        """A row as it is now; other kinds than `cluster` and `vm` mean nothing here."""
        if kind == "cluster":
            name, created = str(row["name"]), float(row["created"])
            egress = str(row.get("egress", NONE))
            if (self._created.get(name), self._egress.get(name)) != (created, egress):
                self._created[name], self._egress[name] = created, egress
                self.revision += 1
        elif kind == "vm":
            if row["state"] not in LIVE:
                self.delete("vm", str(row["name"]))
                return
            machine = machine_of(row)
            if self._machines.get(machine.name) != machine:
                self.delete("vm", machine.name)
                self._add(machine)
                self.revision += 1

    def delete(self, kind: str, name: str) -> None:
        """That there is no such row any more; twice has one effect."""
        if kind == "cluster" and self._created.pop(name, None) is not None:
            self._egress.pop(name, None)
            self.revision += 1
        elif kind == "vm" and (machine := self._machines.pop(name, None)) is not None:
            self._remove(machine)
            self.revision += 1

    def _add(self, machine: Machine) -> None:
        self._machines[machine.name] = machine
        self._of[machine.cluster][machine.vmid] = machine
        if machine.runs:
            for address in machine.public:
                self._at[address].add(machine.name)
            for address in machine.private:
                self._inside[machine.cluster, address].add(machine.name)

    def _remove(self, machine: Machine) -> None:
        siblings = self._of[machine.cluster]
        siblings.pop(machine.vmid, None)
        if not siblings:
            del self._of[machine.cluster]
        for address in machine.public:
            _discard(self._at, address, machine.name)
        for address in machine.private:
            _discard(self._inside, (machine.cluster, address), machine.name)

    # what is asked

    def find(self, labels: Labels, view: str = "") -> Meaning | None:
        """What a name means to the virtual cluster `view`, or to all others; None: it is not of this zone.

        Labels are in lower case, the lowest first, without the root.
        """
        depth = len(self.domain)
        if labels[-depth:] == self.domain:
            return self._in_domain(labels[:-depth], view)
        if len(labels) == 1:
            # a name alone is a zone of its own, for nothing else is below the root here
            meaning = self._called(labels[0], view, labels)
            return meaning if meaning.exists else None
        if labels[-1:] == ("arpa",) and (address := address_of(labels)):
            names = self._inside.get((view, address), set()) if view else set()
            names = names or self._at.get(address, set())
            if names:
                full = tuple(".".join((name, *self.domain)) for name in sorted(names))
                return Meaning(labels, names=full)
        if view:
            for apex in PRIVATE:
                if labels[-len(apex) :] == apex:
                    # above an address there is something; nobody has this one
                    return Meaning(apex, exists=not address_of(labels))
        return None

    def reaches(self, view: str, address: str) -> bool:
        """Whether the VMs of a virtual cluster may go to an address of the world by themselves."""
        egress = self._egress.get(view, NONE)
        if egress in (OPEN, NONE):
            return egress == OPEN
        to = ipaddress.ip_address(address)
        networks = (ipaddress.ip_network(prefix) for prefix in egress.split(","))
        return any(to.version == network.version and to in network for network in networks)

    def _in_domain(self, below: Labels, view: str) -> Meaning:
        if not below:
            return Meaning(self.domain)
        if below == tuple(NAME_SERVER.split(".")):
            return Meaning(self.domain, server=True)
        if len(below) > 1:
            return Meaning(self.domain, exists=False)
        meaning = self._called(below[0], view, self.domain)
        if not meaning.exists and below[0] == NAME_SERVER.rpartition(".")[2]:
            return Meaning(self.domain)  # there is a name below it
        return meaning

    def _called(self, label: str, view: str, apex: Labels) -> Meaning:
        """`a-3` may be VM 3 of `a` and a virtual cluster too: whoever was first keeps the name."""
        machine, created = self._machines.get(label), self._created.get(label)
        if machine is not None and (created is None or machine.created <= created):
            return Meaning(apex, addresses=_told([machine], view))
        if created is not None:
            of = self._of.get(label, {})
            return Meaning(apex, addresses=_told([of[vmid] for vmid in sorted(of)], view))
        return Meaning(apex, exists=False)


def _discard(index: dict[Any, set[str]], key: Any, name: str) -> None:
    if (names := index.get(key)) is not None:
        names.discard(name)
        if not names:
            del index[key]


def _told(machines: Iterable[Machine], view: str) -> tuple[str, ...]:
    """The addresses of those that run, each once, in their order."""
    found: dict[str, None] = {}
    for machine in machines:
        if machine.runs:
            own = view != "" and machine.cluster == view
            found.update(dict.fromkeys(machine.private if own else machine.public))
    return tuple(found)


def address_of(labels: Labels) -> str:
    """The address that a name below in-addr.arpa or ip6.arpa stands for, empty for none (RFC 1035, 3596)."""
    kind, parts = labels[-2:-1], labels[-3::-1]
    if kind == ("in-addr",) and len(parts) == 4:
        text = ".".join(parts)
    elif kind == ("ip6",) and len(parts) == 32 and all(len(part) == 1 for part in parts):
        digits = "".join(parts)
        text = ":".join(digits[at : at + 4] for at in range(0, 32, 4))
    else:
        return ""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""
