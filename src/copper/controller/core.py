"""The deciding parts of a controller, put together: what the API and guests' calls ask."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping

import copper
from copper.controller.accounts import Accounts
from copper.controller.audit import audit
from copper.controller.barrier import Barriers
from copper.controller.book import Book
from copper.controller.calls import Calls
from copper.controller.capacity import Capacity
from copper.controller.clusters import Clusters, Progress, no_progress
from copper.controller.endings import Endings
from copper.controller.exposures import Exposures
from copper.controller.forks import Forks
from copper.controller.hosts import Hosts
from copper.controller.joins import Joins, Results
from copper.controller.learning import Learning
from copper.controller.leases import Leases
from copper.controller.logins import Logins
from copper.controller.metrics import Metrics
from copper.controller.networks import Networks
from copper.controller.recovery import Recovery
from copper.controller.rows import ClusterRow, cluster_key, vm_key
from copper.controller.tickets import Tickets
from copper.controller.whole import Whole
from copper.model.api import (
    Cluster,
    HostFacts,
    ImageInfo,
    Limits,
    NewCluster,
    Vm,
    VmEnded,
    VmLimits,
)
from copper.model.audit import Difference
from copper.model.errors import CopperError
from copper.model.machine import Record
from copper.model.tickets import Ticket, TicketRequest
from copper.store.contract import Store

log = logging.getLogger(__name__)


class Core:
    """One controller over a store and hosts. `open` before anything else."""

    def __init__(
        self,
        store: Store,
        *,
        ticket_expires_s: float = 300.0,
        report_s: float = 2.0,
        domain: str = "",
    ) -> None:
        self.book = Book(store)
        self.capacity = Capacity()
        self.hosts = Hosts(self.capacity, report_s)
        self.learning = Learning(self.book)
        self.accounts = Accounts(self.book, report_s)
        self.leases = Leases(self.book)
        self.networks = Networks(self.book, self.hosts, self.leases)
        self.exposures = Exposures(self.book, self.hosts, self.leases)
        self.logins = Logins(self.book, domain)
        self.tickets = Tickets(self.book, self.hosts, self.leases, self._expected, ticket_expires_s)
        self.results = Results(self.book)
        self.barriers = Barriers(self.book, lambda vm, ticket: bool(self.results.of(vm, ticket)))
        self.endings = Endings(self.book, self.hosts, self.tickets, self.results, self.leases)
        self.placed = Clusters(
            self.book,
            self.hosts,
            self.tickets,
            self.endings,
            self.leases,
            self.networks,
            self.exposures,
        )
        self.forks = Forks(
            self.book,
            self.hosts,
            self.tickets,
            self.placed,
            self.endings,
            self.leases,
            self.exposures,
            self.logins,
        )
        self.whole = Whole(self.book, self.hosts, self.endings, self.forks, self.exposures)
        self.recovery = Recovery(
            self.book, self.hosts, self.tickets, self.endings, self.whole, self.exposures
        )
        self.joins = Joins(self.book, self.results, self._end_clone)
        self.calls = Calls(self.book, self.hosts, self)
        self.metrics = Metrics(
            self.book,
            self.hosts,
            self.accounts,
            lambda: self.tickets.waiting,
            copper.__version__,
        )
        self.book.on_commit(self.metrics.observe_commit)
        self.hosts.on_report(self.learning.see)
        self.hosts.on_report(self.accounts.add)

    def _expected(self, row: ClusterRow) -> int:
        nominal = row.shape.memory_bytes
        return (
            nominal
            if row.memory_class == "guaranteed"
            else self.learning.expected(row.image, nominal)
        )

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Reads the state, settles what was begun, and looks after tickets and hosts while it is open."""
        await self.book.open()  # unless it is open already
        await self.hosts.refresh()
        await self.recovery.reconcile()
        tasks = [
            asyncio.create_task(work)
            for work in (
                self.tickets.expire(),
                self.hosts.watch(),
                self.placed.warm(),
                self._keep_accounts(),
            )
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.tickets.close()
            await self.recovery.close()
            await self.learning.write(now=True)
            await self.accounts.write(now=True)

    async def _keep_accounts(self) -> None:
        """Writes down what was counted and learnt, again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(self.hosts.report_s)
            self.accounts.report_s = self.hosts.round_s
            try:
                await self.learning.write()
                await self.accounts.write()
            except CopperError as error:  # it is written with what is counted next
                log.warning("accounts could not be written: %s", error)

    # virtual clusters

    def cluster(self, name: str) -> Cluster:
        return self.placed.show(name)

    def clusters(self) -> list[Cluster]:
        return self.placed.all()

    async def create(self, owner: str, new: NewCluster) -> Cluster:
        return await self.placed.create(owner, new)

    async def boot(self, name: str, progress: Progress = no_progress) -> Vm:
        return await self.whole.boot(name, lambda: self.placed.boot(name, progress))

    async def kill(self, name: str, progress: Progress = no_progress) -> list[str]:
        return await self.whole.kill(name, progress)

    async def delete(self, name: str, progress: Progress = no_progress) -> None:
        await self.placed.delete(name)

    async def pause(self, name: str, progress: Progress = no_progress) -> list[str]:
        return await self.whole.pause(name, progress)

    async def unpause(self, name: str, progress: Progress = no_progress) -> list[str]:
        return await self.whole.unpause(name, progress)

    async def suspend(self, name: str, progress: Progress = no_progress) -> list[str]:
        return await self.whole.suspend(name, progress)

    async def resume(self, name: str, progress: Progress = no_progress) -> list[str]:
        return await self.whole.resume(name, progress)

    async def limit(self, name: str, limits: Limits | None, vm_limits: VmLimits | None) -> Cluster:
        return await self.placed.limit(name, limits, vm_limits)

    # VMs and tickets

    async def clone(
        self,
        vm: str,
        count: int | None = None,
        ticket: str | None = None,
        call: int | None = None,
        progress: Progress = no_progress,
    ) -> list[Vm]:
        """Forks a VM: `count` clones, or all that `ticket` holds."""
        began = time.monotonic()
        await self._born(vm)
        clones = await self.forks.clone(self.book.vm(vm), count or 0, call, ticket, progress)
        self.metrics.observe_clone(time.monotonic() - began, len(clones))
        return clones

    async def end(self, vms: list[str]) -> None:
        """Ends VMs of one virtual cluster. Raises NotFound, Conflict (it is suspended, or about to be)."""
        for cluster in {self.book.vm(name).cluster for name in vms}:
            await self.book.cluster_settled(cluster)
        # from here to what is first written nothing else is decided
        found = [self.book.vm(name) for name in vms]
        self.whole.check_apart(found)
        await self.endings.end(found)

    async def _end_clone(self, clone: Vm, leave: Mapping[str, Record]) -> None:
        """As `end`, for one that asked for it itself and leaves rows; it waits while the whole is changed."""
        keys = cluster_key(clone.cluster), vm_key(clone.name)
        await self.book.settled(*keys)
        while clone.cluster in self.forks.closed:
            await self.forks.closed[clone.cluster].wait()
            await self.book.settled(*keys)
        await self._born(clone.name)
        found = [self.book.vm(clone.name)]
        self.whole.check_apart(found)
        await self.endings.end(found, leave)

    async def _born(self, name: str) -> None:
        """A clone that forks or joins before its siblings have begun: its own fork is whole first. Raises NotFound."""
        while (vm := self.book.vm(name)).state == "starting" and (
            forks := self.forks.of(vm.cluster)
        ):
            await asyncio.wait(forks, return_when=asyncio.FIRST_COMPLETED)

    async def ended(self, ended: VmEnded) -> None:
        await self.endings.ended(ended)

    async def request_ticket(self, vm: str, request: TicketRequest) -> Ticket:
        began = time.monotonic()
        granted = await self.tickets.request(self.book.vm(vm), request)
        self.metrics.observe_ticket(time.monotonic() - began)
        return granted

    async def release_ticket(self, ticket: str) -> None:
        await self.tickets.release(ticket)

    # hosts and images

    def host_facts(self) -> list[HostFacts]:
        return self.capacity.facts()

    async def images(self) -> list[ImageInfo]:
        return await self.placed.images()

    async def delete_image(self, name: str) -> None:
        await self.placed.delete_image(name)

    # what differs

    def busy(self) -> list[str]:
        """Virtual clusters that something is being done with at this moment."""
        return [*self.forks.busy(), *self.whole.busy()]

    async def audit(self, repair: bool) -> list[Difference]:
        """Compares what is written down with what hosts have; with `repair`, mends what is safe to mend."""
        return await audit(
            self.book,
            self.hosts,
            self.ended,
            exposures=self.exposures,
            busy=self.busy,
            repair=repair,
        )
