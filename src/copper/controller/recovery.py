"""After a start, what was begun is finished or undone, by what is written down and what the hosts have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from copper.controller.book import Book
from copper.controller.clusters import Clusters
from copper.controller.hosts import Hosts
from copper.controller.rows import LIVE, ticket_key, vm_key
from copper.controller.tickets import Tickets
from copper.controller.whole import Whole
from copper.model.api import HostReport, Vm, VmEnded, VmStatus
from copper.model.errors import CopperError
from copper.model.tickets import Ticket

log = logging.getLogger(__name__)


class Recovery:
    """Compares rows with hosts. Losing contact with a host destroys nothing."""

    def __init__(
        self, book: Book, hosts: Hosts, tickets: Tickets, clusters: Clusters, whole: Whole
    ) -> None:
        self._book = book
        self._hosts = hosts
        self._tickets = tickets
        self._clusters = clusters
        self._whole = whole
        self._again: dict[str, asyncio.Task[None]] = {}
        hosts.on_report(self._reported)

    async def reconcile(self) -> None:
        """Once, after the start, before anything new is begun."""
        for row in self._book.clusters():
            await self._finish_intent(row.name)
        await self._undo_begun()
        for host in self._hosts.names():
            try:
                await self._compare(host)
            except CopperError as error:
                log.warning("host %s is not compared: %s", host, error)

    async def _finish_intent(self, cluster: str) -> None:
        intent = self._book.cluster(cluster).intent
        if not intent:
            return
        log.warning("virtual cluster %s: the %s that was begun is finished", cluster, intent)
        try:
            if intent == "suspend":
                await self._whole.finish_suspend(cluster)
            else:
                await self._whole.finish_resume(cluster)
        except CopperError as error:
            log.error("virtual cluster %s: %s failed: %s", cluster, intent, error)

    async def _undo_begun(self) -> None:
        """Forks and boots that were not finished leave nothing; a ticket that was asked for can be used again."""
        begun: dict[tuple[str, str], list[Vm]] = {}
        for vm in self._book.vms():
            if vm.state == "starting":
                begun.setdefault((vm.cluster, vm.ticket), []).append(vm)
        for (cluster, ticket_id), vms in begun.items():
            log.warning("virtual cluster %s: %d VMs were not finished: undone", cluster, len(vms))
            key = ticket_key(ticket_id)
            ticket = self._book.find(key, Ticket)
            try:
                if ticket is not None and ticket.asked:
                    await self._clusters.undo(vms, restore={key: self._tickets.renewed(ticket)})
                else:
                    await self._clusters.undo(vms, [key] if ticket is not None else [])
            except CopperError as error:
                log.error("virtual cluster %s: %s", cluster, error)

    async def _compare(self, host: str) -> None:
        link = self._hosts.get(host)
        await link.release_all()
        there = {status.name: status for status in await link.vms()}
        rows = [vm for vm in self._book.vms() if vm.host == host]
        await self._end_again([vm for vm in rows if vm.state == "ending"])
        for vm in rows:
            if vm.state in ("running", "paused"):
                await self._follow(vm, there.get(vm.name))
        for name in there.keys() - {vm.name for vm in rows if vm.state in LIVE}:
            log.warning("VM %s is nobody's: ended", name)
            await link.end(name)
        for cluster, vms in (await link.suspended()).items():
            known = [vm for vm in self._book.vms(cluster) if vm.state == "suspended"]
            if not known:
                log.warning("virtual cluster %s is stored on %s for nobody", cluster, host)
                if not any(name in there for name in vms):
                    await link.discard(cluster)

    async def _follow(self, vm: Vm, status: VmStatus | None) -> None:
        """A row that says that a VM runs follows what its host has."""
        if status is None:
            await self._clusters.ended(VmEnded(vm=vm.name, reason="it ended with its host"))
        elif status.state in ("running", "paused") and status.state != vm.state:
            key = vm_key(vm.name)
            await self._book.commit(
                expect={key: vm}, put={key: vm.model_copy(update={"state": status.state})}
            )

    async def _end_again(self, vms: Sequence[Vm]) -> None:
        by_cluster: dict[str, list[Vm]] = {}
        for vm in vms:
            by_cluster.setdefault(vm.cluster, []).append(vm)
        for cluster, ending in by_cluster.items():
            try:
                await self._clusters.end(ending)
            except CopperError as error:
                log.warning("virtual cluster %s: VMs are not ended yet: %s", cluster, error)

    def _reported(self, report: HostReport) -> None:
        """A host that answers again ends what it could not be told to end."""
        host = report.facts.name
        if host in self._again or not self._ending(host):
            return
        task = asyncio.create_task(self._end_ending(host))
        self._again[host] = task
        task.add_done_callback(lambda _: self._again.pop(host, None))

    def _ending(self, host: str) -> list[Vm]:
        held = self._hosts.capacity.names_on(host)
        rows = [self._book.find(vm_key(name), Vm) for name in held]
        return [vm for vm in rows if vm is not None and vm.state == "ending"]

    async def _end_ending(self, host: str) -> None:
        await asyncio.sleep(self._hosts.report_s)  # whoever is ending them right now comes first
        await self._end_again(self._ending(host))

    async def close(self) -> None:
        for task in self._again.values():
            task.cancel()
        await asyncio.gather(*self._again.values(), return_exceptions=True)
