"""After a start, what was begun is finished or undone, by what is written down and what the hosts have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from copper.controller.book import Book
from copper.controller.endings import Endings
from copper.controller.exposures import Exposures
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
        self,
        book: Book,
        hosts: Hosts,
        tickets: Tickets,
        endings: Endings,
        whole: Whole,
        exposures: Exposures,
    ) -> None:
        self._book = book
        self._hosts = hosts
        self._tickets = tickets
        self._endings = endings
        self._whole = whole
        self._exposures = exposures
        self._again: dict[str, asyncio.Task[None]] = {}
        hosts.on_report(self._reported)

    async def reconcile(self) -> None:
        """Once, after the start, before anything new is begun."""
        for row in self._book.clusters():
            await self._finish_intent(row.name)
        await self._undo_begun()
        # one that does not answer is compared when it does
        await asyncio.gather(*(self._compared(host, True) for host in sorted(self._hosts.reports)))

    async def _compared(self, host: str, first: bool = False) -> None:
        try:
            if first:
                await self._hosts.get(host).release_all()
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
            again = {key: self._tickets.renewed(ticket)} if ticket and ticket.asked else {}
            await self._endings.undo(vms, again)

    async def _compare(self, host: str) -> None:
        """Ends what is nobody's, says what has ended, and has the host do again what it lost contact at."""
        link = self._hosts.get(host)
        before = self._rows(host)
        there = {status.name: status for status in await link.vms()}
        stored = await link.suspended()
        await self._end_again([vm for vm in before if vm.state == "ending"])
        unlike: set[str] = set()
        for vm in before:
            if vm.state not in ("running", "paused") or self._busy(vm):
                continue
            if vm.name in there:
                await self._exposures.compare(vm, there[vm.name].exposure)
                await self._follow(vm, there[vm.name])
            elif vm.name in stored.get(vm.cluster, []):
                unlike.add(vm.cluster)
            else:
                await self._endings.ended(VmEnded(vm=vm.name, reason="it ended with its host"))
        for name in there:
            row = self._book.find(vm_key(name), Vm)
            if row is None or row.host != host or row.state not in LIVE:
                log.warning("VM %s is nobody's: ended", name)
                await link.end(name)
            elif row.state == "suspended":
                unlike.add(row.cluster)
        for cluster in unlike.difference(self._whole.busy()):
            log.warning("virtual cluster %s: host %s does what it was told before", cluster, host)
            await self._whole.as_written(cluster, host)
        for cluster in stored:
            if not any(vm.host == host and vm.state in LIVE for vm in self._book.vms(cluster)):
                log.warning("virtual cluster %s is stored on %s for nobody", cluster, host)
                await link.discard(cluster)

    def _rows(self, host: str) -> list[Vm]:
        """The VMs that have processes on a host, by what is written down."""
        held = self._hosts.capacity.names_on(host)
        return [vm for name in held if (vm := self._book.find(vm_key(name), Vm)) is not None]

    def _busy(self, vm: Vm) -> bool:
        """Whether it is being changed, or has been since it was read."""
        return vm.cluster in self._whole.busy() or self._book.find(vm_key(vm.name), Vm) != vm

    async def _follow(self, vm: Vm, status: VmStatus) -> None:
        """A row that says that a VM runs follows what its host has."""
        # one that its host paused for memory goes on when there is some, without anybody being told
        state = "running" if status.state == "paused" and status.reason else status.state
        if state in ("running", "paused") and state != vm.state:
            key = vm_key(vm.name)
            await self._book.commit(
                expect={key: vm}, put={key: vm.model_copy(update={"state": state})}
            )

    async def _end_again(self, vms: Sequence[Vm]) -> None:
        by_cluster: dict[str, list[Vm]] = {}
        for vm in vms:
            by_cluster.setdefault(vm.cluster, []).append(vm)
        for cluster, ending in by_cluster.items():
            try:
                await self._endings.end(ending)
            except CopperError as error:
                log.warning("virtual cluster %s: VMs are not ended yet: %s", cluster, error)

    def _reported(self, report: HostReport) -> None:
        """A host that answers again ends what it could not be told to end, and says what ended unheard."""
        host = report.facts.name
        if host in self._again or not self._differs(report):
            return
        task = asyncio.create_task(self._look_again(host))
        self._again[host] = task
        task.add_done_callback(lambda _: self._again.pop(host, None))

    def _differs(self, report: HostReport) -> bool:
        rows = self._rows(report.facts.name)
        held = {vm.name for vm in rows if vm.state in ("running", "paused")}
        missed = any(vm.state == "ending" for vm in rows) or held & self._exposures.missed
        return bool(missed) or held != {vm.name for vm in report.vms}

    async def _look_again(self, host: str) -> None:
        await asyncio.sleep(self._hosts.report_s)  # what is being done right now comes first
        report = self._hosts.reports.get(host)
        if report is not None and self._differs(report):
            await self._compared(host)

    async def close(self) -> None:
        for task in self._again.values():
            task.cancel()
        await asyncio.gather(*self._again.values(), return_exceptions=True)
