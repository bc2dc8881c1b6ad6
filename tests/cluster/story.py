"""A story that uses every verb of a controller, and what must be true whoever was killed in the middle of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from copper.controller.rows import Joined
from copper.model.errors import CopperError
from copper.model.networks import Attachment, Forward, Lease, NewForward, NewNetwork
from tests.cluster.fakes import World, until

NETWORK, POOL = "pub", ["198.51.100.1-198.51.100.20"]


class Known:
    """What users were told, and so must find again whatever is killed."""

    def __init__(self) -> None:
        self.clusters: set[str] = set()
        self.vms: set[str] = set()
        self.tickets: set[str] = set()
        self.left: dict[
            tuple[str, int], int
        ] = {}  # by virtual cluster and vmid: with what it joined
        self.networks: set[str] = set()
        self.ports: dict[int, str] = {}  # of the hosts: whose virtual cluster they lead to
        self.egress: dict[str, str] = {}  # by virtual cluster
        self.unsure: set[str] = set()  # being ended: there or not, both are right

    @contextlib.contextmanager
    def ending(self, *names: str) -> Iterator[None]:
        """These may be gone from now on, and are once it is done."""
        self.unsure |= set(names)
        yield
        self.vms -= set(names)
        self.unsure -= set(names)


async def script(world: World, known: Known) -> None:
    """What two users do, one after the other: each verb that a controller has."""
    for host in world.hosts:
        host.networks = [NETWORK]
    await world.core.hosts.refresh()
    await world.core.networks.create(NewNetwork(name=NETWORK, pool=POOL))
    known.networks.add(NETWORK)
    known.unsure.add("spare")
    await world.core.networks.create(NewNetwork(name="spare", pool=["2001:db8::/64"]))
    await world.core.networks.delete("spare")
    for name, owner in (("a", "ann"), ("b", "bob")):
        only = name == "b"
        attached = [Attachment(name=NETWORK, master_only=only)]
        master = await world.boot(name, owner=owner, networks=attached)
        known.clusters.add(name)
        known.vms.add(master)
        ticket = await world.ticket(master, maxcpus=6)
        known.tickets.add(ticket)
        known.unsure.add(ticket)  # from the call on it may have been used
        done = await world.call(master, "clone", ticket=ticket)
        known.tickets.discard(ticket)
        known.vms |= {f"{name}-{vmid}" for vmid in done["vmids"]}
        done = await world.call(master, "clone", count=2)
        known.vms |= {f"{name}-{vmid}" for vmid in done["vmids"]}
        port = 8080 + ord(name)
        await world.core.exposures.forward(name, NewForward(vmid=0, host_port=port, port=80))
        known.ports[port] = name
        forwarded = NewForward(vmid=1, host_port=9000, port=80, protocol="udp")
        await world.core.exposures.forward(name, forwarded)
        await world.core.exposures.unforward(name, "udp", 9000)
        await world.core.exposures.let_out(name, "192.0.2.0/24")
        known.egress[name] = "192.0.2.0/24"
        spare = await world.ticket(f"{name}-1")
        known.unsure.add(spare)
        await world.core.release_ticket(spare)
        kept = await world.ticket(master)
        known.tickets.add(kept)
        with known.ending(f"{name}-2"):
            await world.call(master, "kill", vmids=[2])
        with known.ending(f"{name}-3"):
            await world.call(f"{name}-3", "join", status=3)
        known.left[name, 3] = 3
        await world.core.pause(name)
        await world.core.unpause(name)
        await world.core.suspend(name)
        await world.core.resume(name)
        with contextlib.suppress(CopperError):
            world.fail_thaws(True)
            await world.call(master, "clone", count=2)
        world.fail_thaws(False)
    late = await world.ticket("a-0")
    known.unsure |= known.tickets  # all are over from now on
    world.later(301)
    await until(lambda: late not in {ticket.id for ticket in world.book.tickets()})
    await asyncio.sleep(0.02)  # and the step after it
    world.later(0)
    known.tickets.clear()
    del known.left["a", 3]  # it goes with who could collect it
    with known.ending(*[vm for vm in known.vms if vm.startswith("a-")]):
        known.unsure |= known.tickets
        await world.core.kill("a")
    known.clusters.discard("a")
    known.unsure.add("a")
    known.ports = {port: name for port, name in known.ports.items() if name != "a"}
    await world.core.delete("a")


async def check(world: World, known: Known) -> None:
    """All that was acknowledged is there; all that was begun is finished or undone; all can be used and ended."""
    world.agree()
    there = {vm.name for vm in world.book.vms() if vm.state in ("running", "paused", "suspended")}
    assert known.vms - known.unsure <= there
    assert known.clusters - known.unsure <= {row.name for row in world.book.clusters()}
    networks = {one.name for one in world.core.networks.all()}
    assert known.networks <= networks <= known.networks | known.unsure | {NETWORK}
    ports = {one.host_port: one.cluster for one in world.book.all("forwards", Forward)}
    assert known.ports.items() <= ports.items()
    for row in world.book.clusters():
        assert row.egress == known.egress.get(row.name, row.egress)
    _addresses_agree(world)
    tickets = {t.id: t for t in world.book.tickets()}
    assert known.tickets - known.unsure <= tickets.keys()
    for ticket in tickets.values():
        made = [vm for vm in world.book.vms() if vm.ticket == ticket.id]
        assert (ticket.status == "used") == bool(made), "a fork is whole or not at all"
    left = {(one.cluster, one.vmid): one.status for one in world.book.all("joined", Joined)}
    assert known.left.items() <= left.items()
    for row in world.book.clusters():
        assert row.intent == ""
        states = {vm.state for vm in world.book.vms(row.name)}
        assert len(states) <= 1, "a virtual cluster is whole in one state"
        if states == {"paused"}:
            await world.core.unpause(row.name)
        if states == {"suspended"}:
            await world.core.resume(row.name)
        if states:
            await world.call(f"{row.name}-0", "clone", count=2)
        _addresses_agree(world)
        await world.core.kill(row.name)
        await world.core.delete(row.name)
    world.nothing_is_left()
    for network in world.core.networks.all():
        assert network.left == network.size
        await world.core.networks.delete(network.name)


def _addresses_agree(world: World) -> None:
    """Each VM has what it was given, and its host has that in force, with what leads to it."""
    given = {one.address: one.vm for one in world.book.all("leases", Lease)}
    has = {address: vm.name for vm in world.book.vms() for address in vm.public}
    assert given == has
    for row in world.book.clusters():
        for vm in world.book.vms(row.name):
            wanted = any(not one.master_only or vm.vmid == 0 for one in row.networks)
            assert bool(vm.public) == wanted
    runs = [vm for vm in world.book.vms() if vm.state in ("running", "paused")]
    should = {vm.name: one for vm in runs if (one := world.core.exposures.ordered(vm))}
    assert world.in_force() == should
