"""What holds in every made-up story at every moment: all that is given out is there, fits, and is one's own."""

from __future__ import annotations

import collections
import dataclasses

from copper.controller.capacity import Sum
from copper.controller.core import Core
from copper.controller.rows import HELD, LIVE
from copper.model.api import HostFacts, Limits
from copper.model.networks import Lease
from copper.model.users import Quota
from tests.cluster.chance import ATTACHED, CLUSTERS, MIB, USERS, Host


@dataclasses.dataclass
class Promise:
    """A ticket that was acknowledged."""

    holder: str
    expires: float


def check_sums(core: Core, hosts: list[Host]) -> None:
    """Never more than there is, by the rows themselves; and the sums that are kept are theirs."""
    sums: dict[tuple[str, str], Sum] = {}

    def add(vms: int, cpus: int, reserved: int, *whose: tuple[str, str]) -> None:
        for one in whose:
            sums.setdefault(one, Sum()).add(vms, cpus, reserved)

    for vm in core.book.vms():
        if vm.state in HELD and vm.cpus:  # it is 0 in what goes without ever having had a process
            where = (("host", vm.host), ("owner", vm.owner), ("cluster", vm.cluster))
            add(1, vm.cpus, vm.reserved_bytes, *where)
    for ticket in core.book.tickets():
        if ticket.status == "granted":
            for host, vms in ticket.places.items():
                where = (("host", host), ("owner", ticket.owner), ("cluster", ticket.cluster))
                add(vms, vms * ticket.cpus // ticket.vms, vms * ticket.vm_bytes, *where)
    nothing = Sum()
    for host_ in hosts:
        facts: HostFacts = host_.facts()
        held = sums.get(("host", host_.name), nothing)
        assert held.cpus <= facts.cpus * facts.cpu_ratio, f"{host_.name}: {held}"
        assert held.reserved <= host_.room * 32 * MIB, f"{host_.name}: {held}"
        assert held.cpus == core.capacity.hosts[host_.name].cpus
    for owner, quota in USERS.items():
        _within(owner, sums.get(("owner", owner), nothing), quota)
    for cluster, (_, _, limits) in CLUSTERS.items():
        _within(cluster, sums.get(("cluster", cluster), nothing), limits)


def _within(whose: str, held: Sum, most: Quota | Limits) -> None:
    assert most.vms is None or held.vms <= most.vms, f"{whose}: {held}"
    assert most.cpus is None or held.cpus <= most.cpus, f"{whose}: {held}"
    assert most.memory_mib is None or held.reserved <= most.memory_mib * MIB, f"{whose}: {held}"


def check_tickets(core: Core) -> None:
    """Each is of a VM that lives, or was used for one."""
    held = {(vm.cluster, vm.vmid) for vm in core.book.vms() if vm.state in LIVE}
    used = {vm.ticket for vm in core.book.vms() if vm.state != "dead"}
    for one in core.book.tickets():
        granted_to = (one.cluster, one.holder) if one.status == "granted" else None
        assert granted_to in held or one.id in used, f"nobody's: {one}"


def check_addresses(core: Core) -> None:
    """Each VM has what it is to have, leased to it alone; no pool has promised more than it has."""
    leases = {one.address: one for one in core.book.all("leases", Lease)}
    has: list[str] = []
    taken: collections.Counter[str] = collections.Counter()
    for vm in core.book.vms():
        lives = vm.state != "dead"
        wanted = [
            one.name
            for one in ATTACHED.get(vm.cluster, [])
            if lives and (vm.vmid == 0 or not one.master_only)
        ]
        mine = [leases[address] for address in vm.public if address in leases]
        assert {one.network for one in mine} == set(wanted), f"{vm.name}: {mine}"
        assert [one.address for one in mine] == vm.public, f"{vm.name} has no lease"
        assert all(one.vm == vm.name for one in mine), f"{vm.name} has another's: {mine}"
        has += vm.public
        taken.update(wanted)
    assert sorted(has) == sorted(leases), f"twice or lost: {has} {leases}"
    for ticket in core.book.tickets():
        if ticket.status == "granted":
            taken.update({name: ticket.vms for name in ticket.networks})
    for name, count in taken.items():
        assert count <= core.leases.size(name), f"{name} gave out {count}"


def check_in_force(core: Core, hosts: list[Host]) -> None:
    """Hosts that answer bring to each VM its own addresses, and nobody brings one twice."""
    brought: list[str] = []
    for host in hosts:
        theirs = {name: one.addresses for name, one in host.exposed.items()}
        brought += [one.address for each in theirs.values() for one in each]
        if not host.silent:
            rows = {vm.name: vm for vm in core.book.vms() if vm.host == host.name}
            for name in host.running:
                addresses = [one.address for one in theirs.get(name, [])]
                assert addresses == rows[name].public, f"{name}: {addresses}"
    assert len(brought) == len(set(brought)), f"brought twice: {brought}"


def unlike(core: Core, hosts: list[Host]) -> list[str]:
    """What hosts that answer have and what is written down, where that is not the same."""
    found = []
    for host in hosts:
        if host.silent:
            continue
        rows = [vm for vm in core.book.vms() if vm.host == host.name]
        runs = {vm.name for vm in rows if vm.state in ("running", "paused")}
        rests = {vm.name for vm in rows if vm.state == "suspended"}
        stored = {name for vms in host.stored.values() for name in vms}
        begun = {vm.name for vm in rows if vm.state in ("starting", "ending")}
        if begun or runs != host.running.keys() or rests != stored:
            found.append(f"{host.name}: {begun} {runs ^ host.running.keys()} {rests ^ stored}")
    return found


def check_free(core: Core, hosts: list[Host]) -> None:
    """Everything was released, and once."""
    assert core.book.vms() == [] and core.book.tickets() == []
    for sums in (core.capacity.hosts, core.capacity.owners, core.capacity.clusters):
        assert all(one == Sum() for one in sums.values()), sums
    for network in core.networks.all():
        assert network.left == network.size, network
    for host in hosts:
        assert not host.running and not host.stored and not host.exposed
