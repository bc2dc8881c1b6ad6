"""How VMs end: told to, on their own, or undone before they ran. What they had is free once their hosts confirm it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Mapping, Sequence

from copper.controller.book import Book
from copper.controller.hosts import Hosts
from copper.controller.joins import Results
from copper.controller.leases import Leases
from copper.controller.rows import HELD, LIVE, cluster_key, vm_key
from copper.controller.tickets import Tickets
from copper.model.api import Vm, VmEnded
from copper.model.errors import CopperError
from copper.model.machine import Record
from copper.model.tickets import Ticket
from copper.wire.steps import step

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Over:
    """VMs that were ended together, why some of them could not be, and tickets that can be used again."""

    vms: Sequence[Vm]
    failures: Mapping[str, BaseException]
    restore: Mapping[str, Ticket]


class Endings:
    """Ends VMs of one virtual cluster at a time."""

    def __init__(
        self, book: Book, hosts: Hosts, tickets: Tickets, results: Results, leases: Leases
    ) -> None:
        self._book = book
        self._hosts = hosts
        self._tickets = tickets
        self._results = results
        self._leases = leases
        self._told: dict[str, asyncio.Task[None]] = {}  # VMs that hosts are ending right now
        # by virtual cluster: what its next write is for
        self._over: dict[str, tuple[list[_Over], asyncio.Task[None]]] = {}

    async def undo(self, vms: Sequence[Vm], restore: Mapping[str, Ticket] = {}) -> None:
        """Ends VMs that were begun, and forgets them and their tickets; those of `restore` can be used again.

        One whose host does not answer is ended when it does, and holds what it was to have until then.
        """
        failure = await self._end(vms, restore)
        if failure is not None and not isinstance(failure, CopperError):
            raise failure

    async def end(self, vms: Sequence[Vm], leave: Mapping[str, Record] = {}) -> None:
        """Ends VMs of one virtual cluster and forgets them; what they had is free on return.

        `leave`: rows that are written with the decision, unless they are ending already. Raises what a host says
        that does not end them: those stay "ending", and it is told again when it answers.
        """
        if not vms:
            return
        # not the whole virtual cluster: clones that join at once would wait for each other's writes
        keys = {cluster_key(vms[0].cluster), *(vm_key(vm.name) for vm in vms), *leave}
        unused: set[str] = set()
        while True:
            await self._book.settled(*keys, *unused)
            there = [row for vm, row in self._rows(vms) if row is not None and _same(row, vm)]
            going = {vm_key(vm.name): vm for vm in there if vm.state in LIVE}
            theirs = self._tickets.gone_with(list(going.values()))
            known, unused = (
                unused,
                {key for key in theirs if _is_unused(self._book.find(key, Ticket))},
            )
            if unused <= known:
                break
        if going:
            put = {**{key: _ending(vm) for key, vm in going.items()}, **leave}
            await asyncio.shield(self._book.submit(expect=going, put=put, delete=unused))
        failure = await asyncio.shield(self._end(there))
        if failure is not None:
            raise failure

    async def _end(
        self, vms: Sequence[Vm], restore: Mapping[str, Ticket] = {}
    ) -> BaseException | None:
        """Releases what the hosts confirm, and the tickets that go with these VMs; the rest stays held."""
        vms = [vm for vm, row in self._rows(vms) if row is None or _same(row, vm)]
        if not vms:
            return None
        failures = await self._on_hosts(vms)
        await step("kill.ended")
        await self._write_down(_Over(vms, failures, restore))
        await step("kill.written")
        return next(iter(failures.values()), None)

    async def _write_down(self, over: _Over) -> None:
        """Writes what comes of it, together with all that is over until the write can be decided."""
        cluster = over.vms[0].cluster
        if cluster not in self._over:
            overs: list[_Over] = []
            self._over[cluster] = overs, asyncio.create_task(self._write(cluster, overs))
        waiting, written = self._over[cluster]
        waiting.append(over)
        await asyncio.shield(written)

    async def _write(self, cluster: str, overs: list[_Over]) -> None:
        await self._book.cluster_settled(cluster)
        del self._over[cluster]
        # from here to the submission nothing else is decided; a name may be a new master's by now
        put: dict[str, Record] = {}
        gone: dict[str, Vm] = {}
        ended: dict[str, Vm] = {}
        for over in overs:
            for vm, row in self._rows(over.vms):
                if row is not None and not _same(row, vm):
                    continue
                gone[vm.name] = vm
                if vm.name not in over.failures:
                    ended[vm.name] = vm
                elif row is not None and row.state in LIVE:
                    put[vm_key(vm.name)] = _ending(row)
            if not over.failures:  # in one transaction, so that nobody takes the room in between
                again = over.restore.items()
                put |= {key: ticket for key, ticket in again if self._tickets.is_held(ticket)}
        for name in ended:
            put.pop(vm_key(name), None)
        left, delete = self._results.at_end(list(gone.values()))
        delete += self._tickets.gone_with(list(gone.values()))
        delete += [vm_key(name) for name in ended] + self._leases.gone_with(ended.values())
        await self._book.commit(put=put | left, delete=delete)

    def _rows(self, vms: Sequence[Vm]) -> list[tuple[Vm, Vm | None]]:
        """What is written down now under each VM's name."""
        return [(vm, self._book.find(vm_key(vm.name), Vm)) for vm in vms]

    async def _on_hosts(self, vms: Sequence[Vm]) -> dict[str, BaseException]:
        """Has the hosts end VMs, and forget what they stored of them; returns what failed, by VM."""
        outcomes = await asyncio.gather(*(self._end_one(vm) for vm in vms), return_exceptions=True)
        failures = {
            vm.name: outcome
            for vm, outcome in zip(vms, outcomes, strict=True)
            if isinstance(outcome, BaseException)
        }
        for host in self._stored_on(vms):
            try:
                await self._hosts.get(host).discard(vms[0].cluster)
            except CopperError as error:
                failures |= {vm.name: error for vm in vms if vm.host == host}
        for name, failure in failures.items():
            log.warning("VM %s could not be ended: %s", name, failure)
        return failures

    async def _end_one(self, vm: Vm) -> None:
        """Has its host end a VM; whoever asks for the same joins, so that none is told after all is over."""
        task = self._told.get(vm.name)
        if task is None:
            task = asyncio.create_task(self._tell(vm))
            self._told[vm.name] = task
            task.add_done_callback(lambda _: self._told.pop(vm.name, None))
        await asyncio.shield(task)

    async def _tell(self, vm: Vm) -> None:
        await self._hosts.get(vm.host).end(vm.name)

    def _stored_on(self, vms: Sequence[Vm]) -> set[str]:
        """The hosts that may have stored some of these VMs, and nothing else of their virtual cluster."""
        going = {vm.name for vm in vms}
        rest = [vm for vm in self._book.vms(vms[0].cluster) if vm.name not in going]
        hosts = {vm.host for vm in vms if vm.state in ("suspended", "ending")}
        return hosts - {vm.host for vm in rest if vm.state in LIVE}

    async def ended(self, ended: VmEnded) -> None:
        """A VM ended on its own: it stays in the lists, with the reason, until its cluster is killed or booted."""
        key = vm_key(ended.vm)
        found = self._book.find(key, Vm)
        if found is None:
            return
        await self._book.cluster_settled(found.cluster)
        vm = self._book.find(key, Vm)
        if vm is None or vm.state not in ("running", "paused"):
            return
        # its addresses may be another's from now on
        dead = vm.model_copy(update={"state": "dead", "reason": ended.reason, "public": []})
        left, gone = self._results.at_end([vm])
        gone += self._tickets.gone_with([vm]) + self._leases.gone_with([vm])
        await self._book.commit(expect={key: vm}, put={key: dead, **left}, delete=gone)


def _same(row: Vm, vm: Vm) -> bool:
    """Whether it is that VM, and not another one of its name: each master has a ticket of its own."""
    return row.ticket == vm.ticket


def _is_unused(ticket: Ticket | None) -> bool:
    return ticket is not None and ticket.status == "granted"


def _ending(vm: Vm) -> Vm:
    if vm.state in HELD:
        return vm.model_copy(update={"state": "ending"})
    # it has no process: it takes nothing of its host while it goes
    return vm.model_copy(update={"state": "ending", "cpus": 0, "reserved_bytes": 0})
