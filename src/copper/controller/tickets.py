"""Tickets: room for clones that was promised, kept as rows; what is free is what is left after summing them."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import uuid
from collections.abc import Iterable

from copper.controller.book import Book, now
from copper.controller.capacity import Capacity
from copper.controller.fits import Expected, Fits
from copper.controller.hosts import Hosts
from copper.controller.leases import Leases, wanted
from copper.controller.line import Line, Waiting
from copper.controller.rows import LIVE, ClusterRow, cluster_key, ticket_key, vm_key
from copper.controller.terms import NoAddress, OverLimit, boot_id, check_request, since_boot
from copper.model.api import HostReport, Vm
from copper.model.errors import BadInput, Conflict, CopperError, NoRoom, NotFound
from copper.model.machine import Record
from copper.model.tickets import Ticket, TicketRequest
from copper.store.contract import Changed
from copper.wire.steps import step

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 1.0  # how often it is looked which tickets' time is over


@dataclasses.dataclass(slots=True)
class _Asked:
    """One request that waits, and where its ticket will appear."""

    vm: Vm
    vms: int
    least: int
    mincpuspervm: int
    answer: asyncio.Future[tuple[Ticket, asyncio.Task[int]]]
    refused: NoRoom | None = None


class Tickets:
    """What is promised to whom."""

    def __init__(
        self,
        book: Book,
        hosts: Hosts,
        leases: Leases,
        expected: Expected,
        expires_s: float = 300.0,
    ) -> None:
        self._book = book
        self._hosts = hosts
        self._leases = leases
        self._capacity: Capacity = hosts.capacity
        self.fits = Fits(book, hosts.capacity, leases, expected)
        self._expires_s = expires_s
        self._boot_id = boot_id()
        self._line: Line[_Asked] = Line()
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving = False
        self._awaited: set[str] = set()  # networks that somebody further ahead waits for
        book.on_change(self._seen)
        book.on_settled(self._settled)
        hosts.on_report(self._reported)

    @property
    def waiting(self) -> int:
        """How many requests wait for room."""
        return len(self._line)

    # asking

    async def request(self, vm: Vm, request: TicketRequest) -> Ticket:
        """Grants a ticket for as many clones as fit, at least MINVMS of them.

        Raises NoRoom after the time-out, Conflict for a VM that does not run.
        """
        await step("ticket.asked")
        self._check_runs(vm)
        row = self._book.cluster(vm.cluster)
        vms = check_request(request, row.shape.cpus)
        answer = asyncio.get_running_loop().create_future()
        asked = _Asked(vm, vms, request.minvms, request.mincpuspervm, answer)
        ticket, written = await self._granted(asked, row.owner, request.timeout_ms / 1000)
        try:
            await step("ticket.placed")
            await asyncio.shield(written)
            await step("ticket.written")
        except BaseException:
            # whoever asked has gone: nobody knows of this ticket
            self._background(self._take_back(ticket, written))
            raise
        self._background(self._prepare(vm, ticket))
        return ticket

    async def _granted(
        self, asked: _Asked, owner: str, timeout_s: float
    ) -> tuple[Ticket, asyncio.Task[int]]:
        place_in_line = self._line.join(owner, asked)
        try:
            self._serve()
            if not asked.answer.done():
                # what ended since the last measurement has given its memory back
                await self._hosts.refresh(asked.vm.host, *self._capacity.gave_back())
                self._serve()
            if not asked.answer.done():
                await asyncio.wait({asked.answer}, timeout=timeout_s)
            if not asked.answer.done():
                raise self._why_not(asked)
            return asked.answer.result()
        except BaseException:
            done = asked.answer.done() and not asked.answer.cancelled()
            if done and asked.answer.exception() is None:
                self._background(self._take_back(*asked.answer.result()))
            raise
        finally:
            self._line.leave(place_in_line)

    def _check_runs(self, vm: Vm) -> None:
        """Raises Conflict for a VM that has ended, or another one's name."""
        row = self._book.find(vm_key(vm.name), Vm)
        if row is None or row.ticket != vm.ticket:
            raise Conflict(f"VM {vm.name} has ended")
        if row.state not in ("starting", "running", "paused"):
            raise Conflict(f"VM {vm.name} is {row.state}", advice="only one that runs has tickets")

    def _why_not(self, asked: _Asked) -> NoRoom:
        if asked.refused is not None:
            error = asked.refused
            return NoRoom(f"request-ticket: {error.message}", advice=error.advice)
        return NoRoom("request-ticket: others wait for room before this one")

    def ahead(self, row: ClusterRow) -> bool:
        """Whether somebody waits for what this virtual cluster wants: who asks without waiting does not pass them."""
        networks = wanted(row, master=False)
        return any(
            not self._steps_aside(one) or self._waits_for(one) in networks
            for one in self._line.order({})
        )

    # granting

    def _seen(self, key: str, before: Record | None, after: Record | None) -> None:
        self._capacity.seen(key, before, after)
        if before is not None and len(self._line):
            self._serve_soon()

    def _reported(self, report: HostReport) -> None:
        if len(self._line):
            self._serve_soon()

    def _settled(self, keys: Iterable[str]) -> None:
        # an address is free when it is written that it was given back
        if len(self._line) and any(key.startswith("leases/") for key in keys):
            self._serve_soon()

    def _serve_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        if self._serving:
            return
        self._serving = True
        self._awaited.clear()
        try:
            self._line.serve(
                lambda: {name: held.cpus for name, held in self._capacity.owners.items()},
                self._grant,
                self._steps_aside,
            )
        finally:
            self._serving = False

    def _grant(self, one: Waiting[_Asked]) -> bool:
        asked = one.request
        try:
            self._check_runs(asked.vm)
            row = self._book.cluster(asked.vm.cluster)
            for network in self._awaited.intersection(wanted(row, master=False)):
                raise NoAddress(network, 0, asked.least, "others wait for them before this one")
            places, reserved = self.fits.places(row, asked.vms, asked.least, asked.vm.host)
        except NoRoom as error:
            asked.refused = error
            if awaited := self._waits_for(one):
                self._awaited.add(awaited)
            return False
        except CopperError as error:
            asked.answer.set_exception(error)  # it has ended while it waited
            return True
        ticket = self.new(asked.vm, places, asked.mincpuspervm, reserved, "granted", True)
        key = ticket_key(ticket.id)
        asked.answer.set_result((ticket, self._book.submit(expect={key: None}, put={key: ticket})))
        return True

    def _steps_aside(self, one: Waiting[_Asked]) -> bool:
        asked = one.request
        row = self._book.find(cluster_key(asked.vm.cluster), ClusterRow)
        # who waits for addresses holds back those only who want some of the same network
        if row is None or isinstance(asked.refused, OverLimit | NoAddress):
            return True
        return not self.fits.ever(row, asked.vms, asked.least, asked.vm.host)

    def _waits_for(self, one: Waiting[_Asked]) -> str:
        """The network whose addresses a request waits for, and could have some day; empty: none."""
        refused = one.request.refused
        if isinstance(refused, NoAddress):
            enough = self._leases.size(refused.network) >= one.request.least
            return refused.network if enough else ""
        return ""

    def new(
        self,
        vm: Vm,
        places: dict[str, int],
        mincpuspervm: int,
        reserved: int,
        status: str,
        asked: bool = False,
    ) -> Ticket:
        """A ticket that `vm` holds, for so many VMs as are placed."""
        vms = sum(places.values())
        row = self._book.cluster(vm.cluster)
        return Ticket.model_validate(
            {
                "id": str(uuid.uuid4()),
                "cluster": vm.cluster,
                "owner": vm.owner,
                "holder": vm.vmid,
                "cpus": vm.cpus * vms,
                "vms": vms,
                "mincpuspervm": mincpuspervm,
                "status": status,
                "places": places,
                "vm_bytes": reserved,
                "networks": wanted(row, master=False) if status == "granted" else [],
                "created": now(),
                "asked": asked,
                "boot_id": self._boot_id,
                "expires_at": since_boot() + self._expires_s if status == "granted" else None,
            }
        )

    async def _prepare(self, vm: Vm, ticket: Ticket) -> None:
        """Processes for the clones are started at the grant, so that the clone itself is fast."""
        here = ticket.places.get(vm.host, 0)
        if here:
            await self._hosts.get(vm.host).prepare(vm.name, here)
        await step("ticket.prepared")

    async def _take_back(self, ticket: Ticket, written: asyncio.Task[int]) -> None:
        await asyncio.gather(written, return_exceptions=True)
        await self._delete(ticket)

    async def _delete(self, ticket: Ticket) -> bool:
        key = ticket_key(ticket.id)
        try:
            await self._book.commit(expect={key: ticket}, delete=[key])
        except Changed:  # it has been used or taken back meanwhile
            return False
        return True

    def _background(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(self._logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _logged(self, work: object) -> None:
        try:
            await work  # type: ignore[misc]
        except CopperError as error:
            log.warning("after a ticket was granted: %s", error)

    # the life of a ticket

    async def release(self, ticket_id: str) -> None:
        """Gives back a ticket that was not used. Raises NotFound, Conflict."""
        ticket = self._book.ticket(ticket_id)
        if ticket.status != "granted":
            raise Conflict(
                f"ticket {ticket_id} has been used",
                advice="it goes when the last of its clones ends",
            )
        await self._delete(ticket)
        await step("ticket.released")

    async def expire(self) -> None:
        """Takes back unused tickets when their time is over, until it is cancelled."""
        await self._renew()
        while True:
            over = [ticket for ticket in self._book.tickets() if self.is_over(ticket)]
            for ticket in over:
                try:
                    gone = await self._delete(ticket)
                except CopperError as error:  # it is tried again
                    log.error("ticket %s cannot be taken back: %s", ticket.id, error)
                    continue
                if gone:
                    log.info("ticket %s was not used and is taken back", ticket.id)
                    await step("ticket.expired")
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _renew(self) -> None:
        """The seconds of another boot of this host are no measure: those tickets begin anew."""
        for ticket in self._book.tickets():
            if ticket.status == "granted" and ticket.boot_id != self._boot_id:
                key = ticket_key(ticket.id)
                try:
                    await self._book.commit(expect={key: ticket}, put={key: self.renewed(ticket)})
                except CopperError as error:  # it has been used or released meanwhile
                    log.warning("ticket %s does not begin anew: %s", ticket.id, error)

    def renewed(self, ticket: Ticket) -> Ticket:
        """An unused ticket whose time begins now."""
        times = {"boot_id": self._boot_id, "expires_at": since_boot() + self._expires_s}
        return ticket.model_copy(update={"status": "granted", **times})

    def is_over(self, ticket: Ticket) -> bool:
        """Whether nobody used it in its time."""
        return (
            ticket.status == "granted"
            and ticket.boot_id == self._boot_id
            and ticket.expires_at is not None
            and ticket.expires_at <= since_boot()
        )

    def to_use(self, vm: Vm, ticket_id: object) -> Ticket:
        """A ticket that this VM may clone on. Raises NotFound, BadInput."""
        found = self._book.ticket(ticket_id)
        if (found.cluster, found.holder) != (vm.cluster, vm.vmid) or self.is_over(found):
            raise NotFound(f"there is no ticket {ticket_id!r:.60}")
        if found.status != "granted":
            raise BadInput(f"clone: ticket {found.id} has been used")
        return found

    def of(self, vm: Vm) -> list[Ticket]:
        """The tickets that a VM holds: the one that it was created on, and those that it asked for."""
        tickets = [t for t in self._book.tickets(vm.cluster) if not self.is_over(t)]
        tickets.sort(key=lambda ticket: ticket.created)
        held = [t for t in tickets if t.holder == vm.vmid and t.id != vm.ticket]
        return [t for t in tickets if t.id == vm.ticket] + held

    def domains(self, vm: Vm, ticket_id: object) -> list[Vm]:
        """The clones made on a ticket, by vmid. Raises NotFound."""
        ticket = self._book.ticket(ticket_id)
        if ticket.cluster != vm.cluster or self.is_over(ticket):
            raise NotFound(f"there is no ticket {ticket_id!r:.60}")
        return [
            other
            for other in self._book.vms(vm.cluster)
            if other.ticket == ticket.id and other.vmid != 0
        ]

    def is_held(self, ticket: Ticket) -> bool:
        """Whether the VM that asked for it is still there."""
        vms = self._book.vms(ticket.cluster)
        return any(vm.vmid == ticket.holder and vm.state in LIVE for vm in vms)

    def gone_with(self, vms: list[Vm]) -> list[str]:
        """The keys of tickets that go with these VMs: those that they hold unused, and those of the last clones."""
        if not vms:
            return []
        cluster = vms[0].cluster
        going = {vm.name for vm in vms}
        vmids = {vm.vmid for vm in vms}
        # one that is ending has yet to leave what it leaves
        stay = {
            vm.ticket
            for vm in self._book.vms(cluster)
            if vm.state in (*LIVE, "ending") and vm.name not in going
        }
        return [
            ticket_key(ticket.id)
            for ticket in self._book.tickets(cluster)
            if (ticket.status == "granted" and ticket.holder in vmids)
            or (ticket.status == "used" and ticket.id not in stay)
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
