"""What an audit compares, and what it finds: the rows as they were at one moment, and findings about them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from copper.controller.book import Book
from copper.controller.pools import Pool
from copper.controller.rows import HELD, ClusterRow, NetworkRow
from copper.model.api import HostFacts, Vm
from copper.model.audit import Difference, Thing
from copper.model.errors import BadInput
from copper.model.names import parse_vm_name
from copper.model.networks import Exposure, Lease
from copper.model.operations import Operation
from copper.model.tickets import Ticket

# by the host twice, in the state thrice, by the host twice
Action = Literal["", "remove", "end", "dead", "release", "lease", "expose", "answer", "rewire"]


@dataclasses.dataclass(frozen=True)
class View:
    """What is written down, by name; and the virtual clusters that something is being done with."""

    clusters: Mapping[str, ClusterRow]
    vms: Mapping[str, Vm]
    tickets: Mapping[str, Ticket]
    facts: Mapping[str, HostFacts]
    busy: frozenset[str] = frozenset()
    leases: Mapping[str, Lease] = dataclasses.field(default_factory=dict)
    networks: Mapping[str, NetworkRow] = dataclasses.field(default_factory=dict)
    # by VM that the world reaches, or that reaches it, how: see Exposure.summary
    exposures: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        book: Book,
        facts: Iterable[HostFacts],
        busy: Iterable[str] = (),
        exposed: Callable[[Vm], Exposure | None] = lambda vm: None,
    ) -> View:
        """As the book is now. `busy`: clusters at work, besides those with an operation that runs."""
        operations = book.all("operations", Operation)
        return cls(
            clusters={row.name: row for row in book.clusters()},
            vms={vm.name: vm for vm in book.vms()},
            tickets={ticket.id: ticket for ticket in book.tickets()},
            facts={one.name: one for one in facts},
            leases={one.address: one for one in book.all("leases", Lease)},
            networks={one.name: one for one in book.all("networks", NetworkRow)},
            exposures={vm.name: how.summary for vm in book.vms() if (how := exposed(vm))},
            busy=frozenset(busy)
            | {one.cluster for one in operations if one.state == "running"}
            | {row.name for row in book.clusters() if row.intent},
        )

    def row(self, key: str) -> object:
        """The record of a key, or None."""
        table, _, name = key.partition("/")
        rows: dict[str, Mapping[str, object]] = {
            "clusters": self.clusters,
            "vms": self.vms,
            "tickets": self.tickets,
            "leases": self.leases,
        }
        return rows[table].get(name) if table in rows else None

    @functools.cached_property
    def clusters_on(self) -> Mapping[str, set[str]]:
        """By host, the virtual clusters that have VMs there, suspended ones included."""
        return self._clusters_in((*HELD, "suspended"))

    @functools.cached_property
    def suspended_on(self) -> Mapping[str, set[str]]:
        """By host, the virtual clusters that have suspended VMs there."""
        return self._clusters_in(("suspended",))

    def _clusters_in(self, states: tuple[str, ...]) -> Mapping[str, set[str]]:
        found: dict[str, set[str]] = {}
        for vm in self.vms.values():
            if vm.state in states:
                found.setdefault(vm.host, set()).add(vm.cluster)
        return found

    def cluster_of(self, name: str) -> str:
        """Of a VM, by its name; empty for what is none."""
        if name in self.vms:
            return self.vms[name].cluster
        try:
            return parse_vm_name(name)[0]
        except BadInput:
            return ""

    @functools.cached_property
    def _pools(self) -> Mapping[str, Pool]:
        return {name: Pool(row.pool) for name, row in self.networks.items()}

    def network_of(self, address: str) -> str:
        """Whose pool has an address; empty: none's."""
        return next((name for name, pool in self._pools.items() if address in pool), "")

    def was_given_out(self, name: str) -> bool:
        """Whether this VM, which has no row, was one of those that were made and are forgotten."""
        row = self.clusters.get(self.cluster_of(name))
        try:
            return row is None or parse_vm_name(name)[1] < row.next_vmid
        except BadInput:
            return True


@dataclasses.dataclass(frozen=True)
class Finding:
    """A difference, what mends it, the key of the row that it is about, and the virtual cluster."""

    difference: Difference
    action: Action = ""
    about: str = ""
    cluster: str = ""

    @property
    def same(self) -> tuple[str, str, str]:
        """What makes findings of two looks the same one."""
        return self.difference.thing, self.difference.name, self.difference.host


MENDS: dict[Action, str] = {
    "": "",
    "remove": "its host removes it",
    "end": "its host ends it",
    "dead": "it is listed as dead",
    "release": "it is given back",
    "lease": "it is given to that VM",
    "expose": "its host is told again",
    "answer": "its host opens it anew",
    "rewire": "its host puts it back",
}


def finding(
    thing: Thing,
    name: str,
    says: str,
    *,
    host: str = "",
    action: Action = "",
    about: str = "",
    cluster: str = "",
) -> Finding:
    """A finding whose difference says what its action does."""
    difference = Difference(thing=thing, name=name, host=host, says=says, mend=MENDS[action])
    return Finding(difference, action, about, cluster)
