"""Worlds for the audit: what is written down and what is on the hosts, made to agree."""

from __future__ import annotations

import dataclasses

from hypothesis import strategies as st

from copper.controller.audit import compare
from copper.controller.audit_view import View
from copper.controller.rows import HELD, ClusterRow
from copper.model.api import Vm, VmState
from copper.model.audit import Difference, Found, Inventory, Thing
from copper.model.tickets import Ticket
from tests.unit.accounts import cluster, facts, vm

MIB = 1 << 20
OF_A_VM: tuple[Thing, ...] = (
    "process", "record", "overlay", "memory-file", "cgroup", "socket", "tap",
)  # fmt: skip
OF_A_SUSPENDED: tuple[Thing, ...] = ("record", "overlay")
STATES: list[VmState] = ["running", "paused", "dead", "starting"]


@dataclasses.dataclass
class World:
    """What is written down, and what is on the hosts; made to agree."""

    clusters: dict[str, ClusterRow] = dataclasses.field(default_factory=dict)
    vms: dict[str, Vm] = dataclasses.field(default_factory=dict)
    tickets: dict[str, Ticket] = dataclasses.field(default_factory=dict)
    there: dict[str, dict[str, VmState]] = dataclasses.field(default_factory=dict)
    found: dict[str, list[Found]] = dataclasses.field(default_factory=dict)
    cpus: int = 1000
    busy: frozenset[str] = frozenset()

    def view(self) -> View:
        all_facts = {
            name: facts(name).model_copy(update={"cpus": self.cpus}) for name in self.there
        }
        return View(self.clusters, self.vms, self.tickets, all_facts, self.busy)

    def inventories(self) -> list[Inventory]:
        return [
            Inventory(host=host, vms=vms, found=self.found[host])
            for host, vms in self.there.items()
        ]

    def compare(self) -> list[Difference]:
        return compare(self.view(), self.inventories())

    def add_host(self, name: str) -> None:
        self.there[name] = {}
        self.found[name] = [
            Found(thing="image", name="micro"),
            Found(thing="process", name="99", vm="(standby)"),
            Found(thing="memory-file", name="t", vm="(template)"),
        ]

    def add_things(self, one: Vm, things: tuple[Thing, ...] = OF_A_VM) -> None:
        self.found[one.host] += [
            Found(thing=thing, name=f"{thing} of {one.name}", vm=one.name) for thing in things
        ]

    def add_vm(self, one: Vm) -> None:
        self.vms[one.name] = one
        row = self.clusters[one.cluster]
        self.clusters[one.cluster] = row.model_copy(
            update={"next_vmid": max(row.next_vmid, one.vmid + 1)}
        )
        if one.state in HELD:
            self.there[one.host][one.name] = one.state
            self.add_things(one)
            self.add_once(one.host, "namespace", one.cluster)
            self.add_once(one.host, "resolver", one.cluster)
        elif one.state == "suspended":
            self.add_things(one, OF_A_SUSPENDED)
            self.add_once(one.host, "suspended", one.cluster)

    def add_once(self, host: str, thing: Thing, of: str) -> None:
        found = Found(thing=thing, name=f"{thing} of {of}", vm=of)
        if found not in self.found[host]:
            self.found[host].append(found)

    def forget_things(self, host: str, name: str) -> list[Found]:
        """What a VM had on a host."""
        gone = [one for one in self.found[host] if one.vm == name and one.thing in OF_A_VM]
        self.found[host] = [one for one in self.found[host] if one not in gone]
        return gone

    def of(self, *states: VmState) -> list[str]:
        return [name for name, one in self.vms.items() if one.state in states]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """One to three hosts, virtual clusters with VMs in every state, tickets used and unused."""
    world = World()
    hosts = ["a", "b", "c"][: draw(st.integers(1, 3))]
    for host in hosts:
        world.add_host(host)
    for name in draw(st.lists(st.sampled_from(["demo", "demo-1", "x"]), unique=True)):
        world.clusters[name] = cluster(name)
        states: list[VmState] = draw(st.lists(st.sampled_from(STATES), max_size=4))
        if draw(st.booleans()):
            states = ["suspended"] * len(states)
        for vmid, of_vm in enumerate(states):
            host = draw(st.sampled_from(hosts))
            one = vm(f"{name}-{vmid}", state=of_vm, host=host)
            # each has a ticket of its own, or shares one with the next
            ticket = f"of {name} {vmid // 2 if draw(st.booleans()) else 'own ' + str(vmid)}"
            world.add_vm(one.model_copy(update={"ticket": ticket}))
        made: dict[str, list[Vm]] = {}
        for one in world.vms.values():
            if one.cluster == name and one.state != "dead":
                made.setdefault(one.ticket, []).append(one)
        for ticket, vms in made.items():
            extra = draw(st.integers(0, 2))  # those that have ended since
            world.tickets[ticket] = new_ticket(ticket, name, "used", len(vms) + extra)
        if draw(st.booleans()):
            world.tickets[name] = new_ticket(name, name, "granted", 2)
    return world


def new_ticket(name: str, cluster: str, status: str, vms: int) -> Ticket:
    return Ticket.model_validate(
        {
            "id": name,
            "cluster": cluster,
            "holder": 0,
            "cpus": 2 * vms,
            "vms": vms,
            "mincpuspervm": 1,
            "status": status,
            "places": {"a": vms},
            "vm_bytes": MIB,
        }
    )
