"""The audit: whether what is written down and what the hosts have agree. `findings` is pure; `audit` asks the hosts.

An audit runs while VMs come and go, so it looks twice: a difference counts when both looks have it, the row that it is
about stayed as it was, and nothing was being done with its virtual cluster.

What a repair does can harm nobody: a host removes a thing that no VM uses; a row that says that a VM runs where none
is becomes dead; a VM without a row is ended when its number was given out before, or its virtual cluster is not there,
for then it was ended and forgotten. An address that no VM has is given back, one that a VM has without a lease is
leased to it; a host is told again how the world reaches a VM, and opens anew what answers names. A VM whose number was
never given out belongs to a state that is newer than this one: it and all that is its is reported, and stays. So does
everything else.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

from copper.controller.audit_hosts import of_clusters, of_things, of_vms
from copper.controller.audit_leases import of_exposures, of_leases
from copper.controller.audit_view import Finding, View, finding
from copper.controller.book import Book
from copper.controller.exposures import Exposures
from copper.controller.hosts import Hosts
from copper.controller.rows import HELD, cluster_key, lease_key, ticket_key, vm_key
from copper.model.api import Vm, VmEnded
from copper.model.audit import Difference, Inventory
from copper.model.errors import CopperError
from copper.model.networks import Lease

GAP_S = 1.0  # between the two looks
log = logging.getLogger(__name__)

Busy = Callable[[], Iterable[str]]


def compare(view: View, inventories: Sequence[Inventory]) -> list[Difference]:
    """What differs, in one look."""
    return [one.difference for one in findings(view, inventories)]


def findings(view: View, inventories: Sequence[Inventory]) -> list[Finding]:
    """What differs, in one look, but for virtual clusters that something is being done with."""
    found = [*of_vms(view, inventories)]
    for inventory in inventories:
        found += of_things(view, inventory)
        found += of_clusters(view, inventory)
    found += [*_of_rows(view), *_of_room(view), *_of_images(view, inventories)]
    found += [*of_leases(view), *of_exposures(view, inventories)]
    return [one for one in found if one.cluster not in view.busy]


def agreed(
    before: View, first: Sequence[Finding], after: View, second: Sequence[Finding]
) -> list[Finding]:
    """What both looks found, about rows that did not change between them."""
    earlier = {one.same for one in first}
    return [
        one
        for one in second
        if one.same in earlier
        and one.cluster not in before.busy
        and before.row(one.about) == after.row(one.about)
    ]


def _of_rows(view: View) -> Iterator[Finding]:
    """A used ticket has a VM, its places are as many as its VMs; a VM's ticket and virtual cluster are there."""
    on: dict[str, int] = collections.Counter()
    lost: dict[str, str] = {}
    homeless: dict[str, int] = collections.Counter()
    for vm in view.vms.values():
        if vm.cluster not in view.clusters:
            homeless[vm.cluster] += 1
        if vm.state in (*HELD, "suspended") and vm.ticket:
            on[vm.ticket] += 1
            if vm.ticket not in view.tickets:
                lost.setdefault(vm.ticket, vm.name)
    for name, count in homeless.items():
        says = f"{count} VMs are written down of a virtual cluster that is not"
        yield finding("vm", name, says, about=cluster_key(name), cluster=name)
    for ticket, name in lost.items():
        says = f"VM {name} was made on it, and it is not there"
        cluster = view.cluster_of(name)
        yield finding("ticket", ticket, says, about=ticket_key(ticket), cluster=cluster)
    for one in view.tickets.values():
        places, vms = sum(one.places.values()), on.get(one.id, 0)
        if one.cluster not in view.clusters:
            says = f"its virtual cluster {one.cluster} is not there"
        elif places != one.vms:
            says = f"it has places for {places} VMs, and is for {one.vms}"
        elif one.status == "used" and not vms:
            says = "it is used, and none of its VMs is there"
        elif vms > (one.vms if one.status == "used" else 0):
            says = f"{vms} VMs were made on it, and it is {one.status}, for {one.vms}"
        else:
            continue
        yield finding("ticket", one.id, says, about=ticket_key(one.id), cluster=one.cluster)


def _of_room(view: View) -> Iterator[Finding]:
    """No host has given out more than it has."""
    cpus: dict[str, int] = collections.Counter()
    memory: dict[str, int] = collections.Counter()
    for vm in view.vms.values():
        if vm.state in HELD:
            cpus[vm.host] += vm.cpus
            memory[vm.host] += vm.reserved_bytes
    for ticket in view.tickets.values():
        if ticket.status == "granted" and ticket.vms:
            for host, vms in ticket.places.items():
                cpus[host] += vms * ticket.cpus // ticket.vms
                memory[host] += vms * ticket.vm_bytes
    for name, facts in view.facts.items():
        offered = int(facts.cpus * facts.cpu_ratio)
        if cpus.get(name, 0) > offered:
            says = f"{cpus[name]} processors are given out, and there are {offered} to give"
            yield finding("ticket", "processors", says, host=name)
        if memory.get(name, 0) > facts.memory_bytes:
            kept, there = memory[name] >> 20, facts.memory_bytes >> 20
            says = f"{kept} MiB of memory are kept for VMs, and it has {there} MiB"
            yield finding("ticket", "memory", says, host=name)


def _of_images(view: View, inventories: Sequence[Inventory]) -> Iterator[Finding]:
    """Each virtual cluster's image is on some host."""
    stored = {one.name for inv in inventories for one in inv.found if one.thing == "image"}
    users: dict[str, list[str]] = collections.defaultdict(list)
    for row in view.clusters.values():
        if row.image not in stored and inventories:
            users[row.image].append(row.name)
    for image, names in users.items():
        says = f"no host that answers has it; {', '.join(names[:5])} stand on it"
        yield finding("image", image, says)


async def audit(
    book: Book,
    hosts: Hosts,
    ended: Callable[[VmEnded], Awaitable[None]],
    *,
    exposures: Exposures | None = None,
    busy: Busy = tuple,
    repair: bool = False,
    gap_s: float = GAP_S,
) -> list[Difference]:
    """All differences; with `repair`, those that are safe to mend are mended first.

    `ended` is told of VMs that are gone; `busy` says which virtual clusters are at work besides those with an
    operation that runs. A host that does not answer is a difference if VMs should be there.
    """
    before, first = await _look(book, hosts, exposures, busy)
    if not first:
        return []
    await asyncio.sleep(gap_s)
    after, second = await _look(book, hosts, exposures, busy)
    found = agreed(before, first, after, second)
    if repair:
        return [await _mended(one, after, book, hosts, exposures, ended) for one in found]
    return [one.difference for one in found]


async def _look(
    book: Book, hosts: Hosts, exposures: Exposures | None, busy: Busy
) -> tuple[View, list[Finding]]:
    working = frozenset(busy())
    exposed = exposures.ordered if exposures is not None else lambda vm: None
    view = View.of(book, hosts.capacity.facts(), working, exposed)
    names = hosts.names()
    answers = await asyncio.gather(
        *(hosts.get(name).inventory() for name in names), return_exceptions=True
    )
    inventories = []
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, Inventory):
            inventories.append(answer)
        elif isinstance(answer, CopperError | TimeoutError):
            log.warning("host %s was not looked at: %s", name, answer)
        else:
            raise answer
    # what was begun since then is being done as well
    now = View.of(book, (), busy()).busy
    return view, [one for one in findings(view, inventories) if one.cluster not in now]


async def _mended(
    one: Finding,
    view: View,
    book: Book,
    hosts: Hosts,
    exposures: Exposures | None,
    ended: Callable[[VmEnded], Awaitable[None]],
) -> Difference:
    what = one.difference
    try:
        if one.action in ("remove", "answer", "rewire"):
            await hosts.get(what.host).mend(what.thing, what.name)
        elif one.action == "end":
            if book.find(vm_key(what.name), Vm) is not None:
                return what  # it has become somebody's
            await hosts.get(what.host).end(what.name)
        elif one.action == "dead":
            await ended(
                VmEnded(vm=what.name, reason=f"it was not there when {what.host} was asked")
            )
        elif one.action in ("release", "lease"):
            await _mend_lease(one, view, book)
        elif one.action == "expose" and exposures is not None:
            await exposures.tell(book.vm(what.name))
        else:
            return what
    except CopperError as error:
        return what.model_copy(update={"says": f"{what.says}; not mended: {error}"})
    return what.model_copy(update={"mended": True})


async def _mend_lease(one: Finding, view: View, book: Book) -> None:
    """Gives an address back, or to the VM that has it, if all about it is as it was. Raises Changed."""
    address = one.difference.name
    key, lease = lease_key(address), view.leases.get(address)
    if one.action == "release":
        await book.commit(expect={key: lease}, delete=[key])
        return
    vm = view.row(one.about)
    assert isinstance(vm, Vm)
    given = Lease(address=address, network=view.network_of(address), vm=vm.name, cluster=vm.cluster)
    await book.commit(expect={key: None, one.about: vm}, put={key: given})
