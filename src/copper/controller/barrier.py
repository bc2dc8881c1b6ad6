"""The barrier of a ticket: all return at once when its caller and all its live clones are there.

`Barrier` decides and does nothing else; `Barriers` follows the book and wakes who waits. Nothing of it is written down:
agents ask again when the controller or a host agent begins anew, by the same number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from copper.controller.book import Book
from copper.controller.rows import LIVE, ticket_key
from copper.model.api import Vm
from copper.model.errors import BadInput, NotFound, TimedOut
from copper.model.machine import Record
from copper.model.tickets import Ticket

NAMED_MOST = 10


class Barrier:
    """Who is needed, and who is here: VMs by vmid, and of each the programs that wait, with their calls' numbers.

    Each method that changes something returns the programs that may go on: all that wait, or none.
    """

    def __init__(self, needed: Iterable[int]) -> None:
        self.needed = set(needed)
        self._here: dict[int, dict[object, int]] = {}
        self._passed: dict[int, frozenset[int]] = {}  # the calls that went on last

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not self._here

    def missing(self) -> list[int]:
        """Who is waited for."""
        return sorted(self.needed - self._here.keys())

    def arrive(self, vmid: int, program: object, call: int) -> set[object]:
        """A program waits from now on, unless its answer was lost when it went on before."""
        if call in self._passed.get(vmid, ()):
            return {program}
        self._here.setdefault(vmid, {})[program] = call
        return self._pass()

    def leave(self, vmid: int, program: object) -> None:
        """A program does not wait any more."""
        programs = self._here.get(vmid, {})
        programs.pop(program, None)
        if not programs:
            self._here.pop(vmid, None)

    def come(self, vmid: int) -> None:
        """One more is needed."""
        self.needed.add(vmid)

    def end(self, vmid: int) -> set[object]:
        """One is not waited for any more, since it ended."""
        self.needed.discard(vmid)
        self._here.pop(vmid, None)
        return self._pass()

    def _pass(self) -> set[object]:
        if not self._here or not self.needed <= self._here.keys():
            return set()
        here, self._here = self._here, {}
        self._passed |= {vmid: frozenset(programs.values()) for vmid, programs in here.items()}
        return {program for programs in here.values() for program in programs}


class Barriers:
    """The barriers at which somebody waits, and those that have been passed and may be needed again."""

    def __init__(self, book: Book, ended: Callable[[Vm, str], bool]) -> None:
        """`ended`: whether a VM cloned on a ticket that is no more, since all its clones have ended."""
        self._book = book
        self._ended = ended
        self._barriers: dict[str, tuple[Ticket, Barrier]] = {}
        book.on_change(self._seen)

    async def sync(self, caller: Vm, call: int, args: dict[str, Any]) -> None:
        """Returns when all are there. Raises NotFound, BadInput, TimedOut, which names who is missing."""
        timeout_ms = time_out(args, "sync")
        if "ticket" not in args and caller.vmid == 0:
            raise BadInput("sync: expected TICKET and TIMEOUT_MS: the master is no clone")
        ticket = self._ticket(caller, args.get("ticket", caller.ticket))
        barrier = self._barrier(ticket) if ticket is not None else None
        if ticket is None or barrier is None or barrier.needed <= {ticket.holder}:
            return  # there are no clones
        program: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._go_on(barrier.arrive(caller.vmid, program, call))
        try:
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
                await program
        except TimeoutError:
            late = named(barrier.missing())
            raise TimedOut(f"sync: {late} did not come within {timeout_ms} ms") from None
        finally:
            barrier.leave(caller.vmid, program)
            self._tidy(ticket.id)

    def _ticket(self, caller: Vm, wanted: object) -> Ticket | None:
        """A ticket that the caller cloned on, or was cloned on; None: its clones have ended. Raises NotFound."""
        found = self._book.find(ticket_key(str(wanted)), Ticket)
        if found is not None and found.cluster == caller.cluster:
            if found.holder != caller.vmid and found.id != caller.ticket:
                raise NotFound(f"sync: ticket {found.id} is another VM's")
            return found
        if self._ended(caller, str(wanted)):
            return None
        raise NotFound(f"sync: there is no ticket {wanted!r:.60}")

    def _barrier(self, ticket: Ticket) -> Barrier:
        if ticket.id in self._barriers:
            return self._barriers[ticket.id][1]
        needed = {
            vm.vmid
            for vm in self._book.vms(ticket.cluster)
            if vm.state in LIVE and _belongs(vm, ticket)
        }
        barrier = Barrier(needed)
        if needed - {ticket.holder}:
            self._barriers[ticket.id] = (ticket, barrier)
        return barrier

    def _go_on(self, programs: set[object]) -> None:
        for program in programs:
            assert isinstance(program, asyncio.Future)
            if not program.done():
                program.set_result(None)

    def _tidy(self, ticket_id: str) -> None:
        """A barrier without clones is not needed again."""
        if ticket_id in self._barriers:
            ticket, barrier = self._barriers[ticket_id]
            if barrier.is_empty and barrier.needed <= {ticket.holder}:
                del self._barriers[ticket_id]

    def _seen(self, key: str, before: Record | None, after: Record | None) -> None:
        vm = after if after is not None else before
        if not isinstance(vm, Vm) or not self._barriers:
            return
        lived, lives = (isinstance(one, Vm) and one.state in LIVE for one in (before, after))
        if lived == lives:
            return
        for ticket, barrier in list(self._barriers.values()):
            if ticket.cluster != vm.cluster or not _belongs(vm, ticket):
                continue
            if lives:
                barrier.come(vm.vmid)
            else:
                self._go_on(barrier.end(vm.vmid))
                self._tidy(ticket.id)


def _belongs(vm: Vm, ticket: Ticket) -> bool:
    """Whether a VM of the ticket's virtual cluster meets at its barrier."""
    return vm.vmid == ticket.holder or (vm.ticket == ticket.id and vm.vmid != 0)


def time_out(args: dict[str, Any], verb: str) -> int | None:
    """The milliseconds that a program waits at most; None: for ever. Raises BadInput."""
    wanted = args.get("timeout_ms")
    if wanted is None:
        return None
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 0 <= wanted < 1 << 31:
        raise BadInput(f"{verb}: TIMEOUT_MS: expected milliseconds, got {wanted!r:.40}")
    return wanted


def named(vmids: list[int]) -> str:
    """VMs as a message names them: VM 3; VMs 1, 2 and 5; VMs 1, 2, … and 90 more."""
    if len(vmids) == 1:
        return f"VM {vmids[0]}"
    shown, rest = vmids[:NAMED_MOST], len(vmids) - NAMED_MOST
    if rest > 0:
        return f"VMs {', '.join(map(str, shown))} and {rest} more"
    return f"VMs {', '.join(map(str, shown[:-1]))} and {shown[-1]}"
