"""Tickets: room for clones that was promised, kept as rows; what is free is what is left after summing them."""

from __future__ import annotations

import asyncio
import time
import uuid

from copper.controller.hosts import Host
from copper.controller.state import LIVE, State, Ticket, now, ticket_key
from copper.model.api import Vm
from copper.model.errors import BadInput, NoRoom, NotFound
from copper.model.names import MOST_CLONES

EXPECTED_OWN_BYTES = 32 << 20  # of a new clone: what one has been seen to take, and a margin
EXPIRES_S = 300.0  # a ticket that nobody used by then is taken back
LOOK_AGAIN_S = 0.25


def vms_of(maxcpus: int, minvms: int, mincpuspervm: int, cpus: int) -> int:
    """As many VMs of `cpus` processors as MAXCPUS allows.

    Raises BadInput where the numbers contradict each other, NoRoom where this VM's clones are not what was asked for.
    """
    for name, number in (("MAXCPUS", maxcpus), ("MINVMS", minvms), ("MINCPUSPERVM", mincpuspervm)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise BadInput(f"request-ticket: {name}: expected a number from 1, got {number!r:.40}")
    if maxcpus < minvms * mincpuspervm:
        raise BadInput(
            f"request-ticket: MAXCPUS: expected at least MINVMS times MINCPUSPERVM,"
            f" {minvms * mincpuspervm}, got {maxcpus}"
        )
    if mincpuspervm > cpus:
        raise NoRoom(
            f"request-ticket: a clone of this VM has {cpus} processors, not {mincpuspervm}"
        )
    fit = min(maxcpus // cpus, MOST_CLONES)
    if fit < minvms:
        raise NoRoom(
            f"request-ticket: {maxcpus} processors make {fit} clones of {cpus} each, not {minvms}"
        )
    return fit


class Tickets:
    """What is promised to whom. First come, first served."""

    def __init__(self, state: State, host: Host) -> None:
        self._state = state
        self._host = host
        self._queue = asyncio.Lock()

    async def room(self) -> int:
        """How many clones there is memory for, besides those that were promised."""
        free = (await self._host.facts()).free_bytes
        promised = sum(
            ticket.vms
            for ticket in await self._state.tickets()
            if ticket.status == "granted" and not _is_over(ticket)
        )
        return max(0, free // EXPECTED_OWN_BYTES - promised)

    async def check_room(self, count: int) -> None:
        """Raises NoRoom when so many clones do not fit beside what was promised."""
        room = await self.room()
        if count > room:
            raise NoRoom(
                f"no room for {count} clones: {count * EXPECTED_OWN_BYTES >> 20} MiB of memory are"
                f" expected, there is room for {room}"
            )

    async def request(
        self, vm: Vm, cpus: int, maxcpus: int, minvms: int, mincpuspervm: int, timeout_ms: int
    ) -> Ticket:
        """Grants a ticket for as many clones as fit, at least MINVMS of them. Raises NoRoom after the time-out."""
        if isinstance(timeout_ms, bool) or not isinstance(timeout_ms, int) or timeout_ms < 0:
            raise BadInput(
                f"request-ticket: TIMEOUT_MS: expected 0 or more milliseconds, got {timeout_ms!r:.40}"
            )
        wanted = vms_of(maxcpus, minvms, mincpuspervm, cpus)
        deadline = time.monotonic() + timeout_ms / 1000
        try:
            # whoever came first is served first, also when less would do for the second
            async with asyncio.timeout(max(timeout_ms / 1000, 0.01)):
                await self._queue.acquire()
        except TimeoutError:
            raise NoRoom("request-ticket: others wait for room before this one") from None
        try:
            while (room := await self.room()) < minvms:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise NoRoom(
                        f"request-ticket: there is room for {room} clones, not for {minvms}"
                    )
                await asyncio.sleep(min(LOOK_AGAIN_S, left))
            ticket = new_ticket(vm, cpus, min(wanted, room), mincpuspervm, "granted")
            await self._state.store.commit(put={ticket_key(ticket.id): ticket.model_dump()})
        finally:
            self._queue.release()
        await self._host.prepare(vm.name, ticket.vms)
        return ticket

    async def to_use(self, vm: Vm, ticket_id: object) -> tuple[Ticket, int]:
        """A ticket that this VM may clone on, and its revision. Raises NotFound, BadInput."""
        found, revision = await self._state.ticket(str(ticket_id))
        if (found.cluster, found.holder) != (vm.cluster, vm.vmid) or _is_over(found):
            raise NotFound(f"there is no ticket {ticket_id!r:.60}")
        if found.status != "granted":
            raise BadInput(f"clone: ticket {found.id} has been used")
        return found, revision

    async def of(self, vm: Vm) -> list[Ticket]:
        """The tickets that a VM holds: the one that it was created on, and those that it asked for."""
        tickets = [t for t in await self._state.tickets() if t.cluster == vm.cluster]
        vms = await self._state.vms(vm.cluster)
        live = {other.ticket for other in vms if other.state in LIVE}
        over = [t for t in tickets if _is_over(t) or (t.status == "used" and t.id not in live)]
        if over:  # a used ticket goes when its last clone does
            await self._state.store.commit(delete=[ticket_key(t.id) for t in over])
        held = [t for t in tickets if t not in over and vm.vmid == t.holder and t.id != vm.ticket]
        return [t for t in tickets if t.id == vm.ticket] + held

    async def domains(self, vm: Vm, ticket_id: object) -> list[Vm]:
        """The clones made on a ticket, by vmid. Raises NotFound."""
        ticket, _ = await self._state.ticket(str(ticket_id))
        if ticket.cluster != vm.cluster or _is_over(ticket):
            raise NotFound(f"there is no ticket {ticket_id!r:.60}")
        vms = await self._state.vms(vm.cluster)
        return [other for other in vms if other.ticket == ticket.id and other.vmid != 0]


def new_ticket(vm: Vm, cpus: int, vms: int, mincpuspervm: int, status: str) -> Ticket:
    """A ticket that `vm` holds."""
    return Ticket.model_validate(
        {
            "id": str(uuid.uuid4()),
            "cluster": vm.cluster,
            "holder": vm.vmid,
            "cpus": cpus * vms,
            "vms": vms,
            "mincpuspervm": mincpuspervm,
            "status": status,
            "expires": now() + EXPIRES_S if status == "granted" else None,
        }
    )


def _is_over(ticket: Ticket) -> bool:
    return ticket.expires is not None and ticket.expires < now()
