"""What of each host, user and virtual cluster is held: sums that follow the book's rows, never kept apart from them.

The rule of a host's memory: what was free when it was last measured, less what was promised since and not yet written.
"""

from __future__ import annotations

import collections
import dataclasses

from copper.controller.placement import Room
from copper.controller.rows import HELD
from copper.model.api import HostFacts, HostReport, Limits, Vm
from copper.model.machine import Record
from copper.model.tickets import Ticket
from copper.model.users import Quota

MIB = 1 << 20


@dataclasses.dataclass(slots=True)
class Sum:
    """Held by live VMs and promised by unused tickets."""

    vms: int = 0
    cpus: int = 0
    reserved: int = 0  # bytes

    def add(self, vms: int, cpus: int, reserved: int) -> None:
        self.vms += vms
        self.cpus += cpus
        self.reserved += reserved


@dataclasses.dataclass(slots=True)
class Measured:
    """A host as it last said, and what it may still write of what it was promised."""

    facts: HostFacts
    own: dict[str, int]
    outstanding: int = 0


class Capacity:
    """Follows every change of the book; see `Book.on_change`."""

    def __init__(self) -> None:
        self.hosts: dict[str, Sum] = collections.defaultdict(Sum)
        self.owners: dict[str, Sum] = collections.defaultdict(Sum)
        self.clusters: dict[str, Sum] = collections.defaultdict(Sum)
        self._promised: dict[str, int] = collections.Counter()  # by host: unused tickets
        self._vms: dict[str, dict[str, int]] = collections.defaultdict(dict)  # host, VM: reserved
        self._measured: dict[str, Measured] = {}
        self._gave_back: set[str] = set()

    def seen(self, key: str, before: Record | None, after: Record | None) -> None:
        """One row changed."""
        for record, sign in ((before, -1), (after, 1)):
            if isinstance(record, Vm):
                self._count_vm(record, sign)
            elif isinstance(record, Ticket):
                self._count_ticket(record, sign)
        held = isinstance(after, Vm) and after.state in HELD
        if isinstance(before, Vm) and before.state in HELD and not held:
            self._gave_back.add(before.host)

    def _count_vm(self, vm: Vm, sign: int) -> None:
        if vm.state not in HELD:
            return
        held = (sign, sign * vm.cpus, sign * vm.reserved_bytes)
        for total in (self.hosts[vm.host], self.owners[vm.owner], self.clusters[vm.cluster]):
            total.add(*held)
        measured = self._measured.get(vm.host)
        own = measured.own.get(vm.name, 0) if measured else 0
        if measured:
            measured.outstanding += sign * max(0, vm.reserved_bytes - own)
        if sign > 0:
            self._vms[vm.host][vm.name] = vm.reserved_bytes
        else:
            self._vms[vm.host].pop(vm.name, None)

    def _count_ticket(self, ticket: Ticket, sign: int) -> None:
        if ticket.status != "granted":
            return
        cpus = ticket.cpus // ticket.vms
        for host, vms in ticket.places.items():
            held = (sign * vms, sign * vms * cpus, sign * vms * ticket.vm_bytes)
            for total in (
                self.hosts[host],
                self.owners[ticket.owner],
                self.clusters[ticket.cluster],
            ):
                total.add(*held)
            self._promised[host] += held[2]

    def report(self, report: HostReport) -> None:
        """A host measured itself and its VMs."""
        own = {vm.name: vm.own_bytes for vm in report.vms}
        reserved = self._vms[report.facts.name]
        outstanding = sum(max(0, bytes_ - own.get(vm, 0)) for vm, bytes_ in reserved.items())
        self._measured[report.facts.name] = Measured(report.facts, own, outstanding)
        self._gave_back.discard(report.facts.name)

    def forget(self, host: str) -> None:
        """A host that does not answer takes nothing more; what it holds is not free."""
        self._measured.pop(host, None)

    def gave_back(self) -> list[str]:
        """The hosts that answer and have not been measured since a VM of theirs ended."""
        return sorted(self._gave_back & self._measured.keys())

    def names_on(self, host: str) -> list[str]:
        """The VMs that hold something of a host."""
        return list(self._vms[host])

    def facts(self) -> list[HostFacts]:
        """Of the hosts that answer, by name."""
        return [self._measured[name].facts for name in sorted(self._measured)]

    def room(self, host: str) -> Room | None:
        """What a host takes, None for one that does not answer."""
        measured = self._measured.get(host)
        if measured is None:
            return None
        facts, held = measured.facts, self.hosts[host].cpus
        return Room(
            facts=facts,
            cpus=int(facts.cpus * facts.cpu_ratio) - held,
            memory=facts.free_bytes - measured.outstanding - self._promised[host],
            cpus_held=held,
        )

    def rooms(self) -> list[Room]:
        return [room for name in self._measured if (room := self.room(name)) is not None]


def left_of(held: Sum, most: Limits | Quota, cpus: int, reserved: int) -> int | None:
    """How many more VMs a limit or quota allows; None: it says nothing."""
    allowed = [
        number
        for number in (
            None if most.vms is None else most.vms - held.vms,
            None if most.cpus is None else (most.cpus - held.cpus) // cpus,
            None
            if most.memory_mib is None or not reserved
            else (most.memory_mib * MIB - held.reserved) // reserved,
        )
        if number is not None
    ]
    return max(0, min(allowed)) if allowed else None
