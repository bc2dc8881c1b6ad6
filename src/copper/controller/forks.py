"""Forks: one freeze and N thaws, all or none. Decided here, written down first, done by hosts."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Sequence

from copper.controller.book import Book
from copper.controller.clusters import Clusters, Progress, no_progress
from copper.controller.endings import Endings
from copper.controller.exposures import Exposures
from copper.controller.hosts import Hosts
from copper.controller.leases import Leases
from copper.controller.logins import Logins
from copper.controller.rows import cluster_key, ticket_key, vm_key
from copper.controller.tickets import Tickets
from copper.model.api import Frozen, Vm, VmStatus
from copper.model.errors import BadInput, Conflict, CopperError, NoRoom
from copper.model.names import check_count
from copper.model.tickets import Ticket
from copper.wire import trace
from copper.wire.steps import step


@dataclasses.dataclass
class _Plan:
    """What was written down before any host was told: the clones' rows and the ticket that they are on."""

    ticket: Ticket
    clones: Sequence[Vm]
    before: Ticket | None  # what the ticket was, None for one that was made for this fork


class Forks:
    """Clone calls, and those that are under way."""

    def __init__(
        self,
        book: Book,
        hosts: Hosts,
        tickets: Tickets,
        clusters: Clusters,
        endings: Endings,
        leases: Leases,
        exposures: Exposures,
        logins: Logins,
    ) -> None:
        self._book = book
        self._hosts = hosts
        self._tickets = tickets
        self._clusters = clusters
        self._endings = endings
        self._leases = leases
        self._exposures = exposures
        self._logins = logins
        # those that are changed as a whole, and until when: not to be forked meanwhile
        self.closed: dict[str, asyncio.Event] = {}
        self._under_way: dict[str, set[asyncio.Task[list[Vm]]]] = collections.defaultdict(set)

    def busy(self) -> list[str]:
        """The virtual clusters that are being forked."""
        return [cluster for cluster, forks in self._under_way.items() if forks]

    def of(self, cluster: str) -> list[asyncio.Task[list[Vm]]]:
        """The forks of a virtual cluster that are under way."""
        return list(self._under_way[cluster])

    async def clone(
        self,
        caller: Vm,
        count: int,
        call: int | None = None,
        ticket_id: object = None,
        progress: Progress = no_progress,
    ) -> list[Vm]:
        """Forks a VM into `count` more, or onto all that a ticket holds; all or none.

        A program that goes away changes nothing: the fork was asked for. Without a `call` of a guest's program,
        cancelling undoes it. Raises NoRoom, NotFound (ticket) or what
        went wrong; nothing is left then, and the ticket is as it was.
        """
        if caller.cluster in self.closed:
            raise Conflict(
                f"virtual cluster {caller.cluster!r} is being changed as a whole",
                advice="try again",
            )
        with trace.line(f"fork of {caller.name}"):
            fork = asyncio.create_task(self._clone(caller, count, call, ticket_id, progress))
        forks = self._under_way[caller.cluster]
        forks.add(fork)
        fork.add_done_callback(forks.discard)
        try:
            return await asyncio.shield(fork)
        except asyncio.CancelledError:
            if fork.cancelled():  # not its caller, but the fork was ended
                raise Conflict(f"virtual cluster {caller.cluster!r} was killed") from None
            if call is None:  # no program waits in a guest: whoever asked says that it shall not be
                fork.cancel()
                await asyncio.gather(fork, return_exceptions=True)
            raise

    async def end(self, cluster: str) -> None:
        """Ends the forks of a virtual cluster; each undoes itself."""
        forks = self.of(cluster)
        for fork in forks:
            fork.cancel()
        await asyncio.gather(*forks, return_exceptions=True)
        await step("kill.forks-ended")

    async def _clone(
        self, caller: Vm, count: int, call: int | None, ticket_id: object, progress: Progress
    ) -> list[Vm]:
        if caller.state != "running":
            raise Conflict(f"VM {caller.name} is {caller.state}", advice="only one that runs forks")
        row = self._book.cluster(caller.cluster)
        if ticket_id is None:
            check_count(count)
            if self._tickets.ahead(row):
                raise NoRoom(f"no room for {count} clones: others wait for room before this one")
            await self._clusters.look_again(row, count, caller.host)
        await step("clone.checked")
        host = self._hosts.get(caller.host)
        # names are written down first: writing many takes a processor, by which the pause would be longer, and a
        # refusal costs the caller none
        planned = asyncio.create_task(self._plan(caller, count, ticket_id))
        frozen: asyncio.Task[Frozen] | None = None
        thaws: list[asyncio.Task[VmStatus]] = []
        try:
            # whatever ends this, `_undo` has to know what was written
            plan = await asyncio.shield(planned)
            count = len(plan.clones)
            frozen = asyncio.create_task(self._freeze(caller))
            image = (await frozen).image
            # not before: a process that starts would make the pause longer
            with trace.span("prepare"):
                await host.prepare(caller.name, count)
            await step("clone.prepared")
            vmids = [vm.vmid for vm in plan.clones]
            done, ordered = 0, {}
            progress(0, count)

            def one_more(thaw: asyncio.Task[VmStatus]) -> None:
                nonlocal done
                done += 1
                progress(done, count)
                if not thaw.cancelled() and not thaw.exception():
                    self._logins.heard(thaw.result())

            for vm in plan.clones:
                order = self._clusters.order(row, vm, vmids).model_copy(
                    update={
                        "frozen": image,
                        "event": "clone",
                        "call": call,
                        "source": "" if vm.host == caller.host else caller.host,
                    }
                )
                ordered[vm.name] = order.exposure
                thaw = asyncio.create_task(self._hosts.get(vm.host).thaw(order))
                thaw.add_done_callback(one_more)
                thaws.append(thaw)
            await step("clone.ordered")
            with trace.span("thaws"):
                found = await asyncio.gather(*thaws)
            await step("clone.thawed")
            with trace.span("written"):
                clones = await self._clusters.running(plan.clones, found)
            limits = self._book.cluster(row.name).vm_limits
            if limits != row.vm_limits:  # changed since they were ordered
                await self._clusters.hold(clones, limits)
            await self._exposures.follow(clones, ordered)
            await step("clone.written")
            return clones
        except BaseException:
            for thaw in thaws:
                thaw.cancel()
            await asyncio.shield(self._undo(planned, thaws))
            raise
        finally:
            if frozen is not None:
                await asyncio.shield(self._release(caller.host, frozen))

    async def _freeze(self, caller: Vm) -> Frozen:
        with trace.span("freeze", "freeze"):
            image = await self._hosts.get(caller.host).freeze(caller.name)
        await step("clone.frozen")
        return image

    async def _plan(self, caller: Vm, count: int, ticket_id: object) -> _Plan:
        """Writes down the clones' rows, and that the ticket is used, before any host is told of them."""
        keys = [cluster_key(caller.cluster)]
        if ticket_id is not None:
            keys.append(ticket_key(str(ticket_id)))
        await self._book.settled(*keys)
        # from here to the submission nothing else is decided
        row = self._book.cluster(caller.cluster)
        if ticket_id is not None:
            before: Ticket | None = self._tickets.to_use(caller, ticket_id)
            assert before is not None
            ticket = before.model_copy(update={"status": "used", "expires_at": None})
        else:
            places, reserved = self._tickets.fits.places(row, count, count, caller.host)
            ticket = self._tickets.new(caller, places, row.shape.cpus, reserved, "used")
            before = None
        lineage = [*caller.lineage, caller.vmid]
        hosts = [host for host, vms in ticket.places.items() for _ in range(vms)]
        bare = [
            self._clusters.new_vm(
                row, row.next_vmid + i, row.next_generation, caller.vmid, host, ticket.vm_bytes
            ).model_copy(update={"ticket": ticket.id, "lineage": lineage})
            for i, host in enumerate(hosts)
        ]
        if not bare:
            raise BadInput(f"clone: ticket {ticket.id} holds no VMs")
        clones, leases = self._leases.give(row, bare)
        updated = row.model_copy(
            update={
                "next_vmid": row.next_vmid + len(clones),
                "next_generation": row.next_generation + 1,
            }
        )
        written = self._book.submit(
            expect={
                cluster_key(row.name): row,
                ticket_key(ticket.id): before,
                **dict.fromkeys(leases),
            },
            put={
                **{vm_key(vm.name): vm for vm in clones},
                cluster_key(row.name): updated,
                ticket_key(ticket.id): ticket,
                **leases,
            },
        )
        await step("clone.reserved")
        with trace.span("planned", "plan"):
            await asyncio.shield(written)
        await step("clone.planned")
        return _Plan(ticket, clones, before)

    async def _undo(
        self, planned: asyncio.Task[_Plan], thaws: Sequence[asyncio.Task[VmStatus]]
    ) -> None:
        await asyncio.gather(*thaws, return_exceptions=True)
        plan = (await asyncio.gather(planned, return_exceptions=True))[0]
        if isinstance(plan, BaseException):
            return
        before = plan.before
        again = {} if before is None else {ticket_key(before.id): self._tickets.renewed(before)}
        await self._endings.undo(plan.clones, again)
        await step("clone.undone")

    async def _release(self, host: str, frozen: asyncio.Task[Frozen]) -> None:
        image = (await asyncio.gather(frozen, return_exceptions=True))[0]
        if isinstance(image, BaseException):
            return
        try:
            await self._hosts.get(host).release(image.image)
        except CopperError:
            # the host lets go of it when it starts again; the fork itself is done
            return
        await step("clone.released")
