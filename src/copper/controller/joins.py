"""What clones leave for the VM that cloned them: a status and a file, kept until it has collected them or is gone.

A result is a row from the moment that its clone ends. It holds no room: the clone's went with the clone.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import collections
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from copper.controller.barrier import named, time_out
from copper.controller.book import Book, now
from copper.controller.rows import LIVE, Joined, joined_key, ticket_key
from copper.model.api import Vm
from copper.model.errors import BadInput, NoRoom, NotFound, Refused, TimedOut
from copper.model.machine import Record
from copper.model.tickets import Ticket

FILE_MOST = 48 << 10  # bytes: what a line of the guest's local socket holds in base64
FILES_MOST = 64 << 20  # bytes in base64, of one VM's clones and not yet collected
KEPT_MOST = 4096  # results of one VM's clones; of those that nobody collects, the oldest go
PAGE = 128 << 10  # characters of files in one answer: a message to a guest holds 256 KiB

Whose = tuple[str, int]  # virtual cluster, and the vmid that cloned
End = Callable[[Vm, Mapping[str, Record]], Awaitable[None]]


class Results:
    """The rows, by whose they are; and which come and go when VMs end."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._rows: dict[Whose, dict[str, Joined]] = {}
        self._files: dict[Whose, int] = collections.Counter()
        book.on_change(self._seen)

    def _seen(self, key: str, before: Record | None, after: Record | None) -> None:
        if isinstance(before, Joined):
            whose = (before.cluster, before.parent)
            self._files[whose] -= len(before.file or "")
            rows = self._rows.get(whose, {})
            rows.pop(key, None)
            if not rows:
                self._rows.pop(whose, None)
                self._files.pop(whose, None)
        if isinstance(after, Joined):
            whose = (after.cluster, after.parent)
            self._rows.setdefault(whose, {})[key] = after
            self._files[whose] += len(after.file or "")

    def of(self, caller: Vm, ticket: str) -> dict[str, Joined]:
        """What the clones of a VM's ticket left, by key, those with the smallest vmids first."""
        rows = self._rows.get((caller.cluster, caller.vmid), {})
        mine = [(key, row) for key, row in rows.items() if row.ticket == ticket]
        return dict(sorted(mine, key=lambda item: item[1].vmid))

    def files(self, cluster: str, vmid: int) -> int:
        """Characters of the files that a VM has not collected."""
        return self._files.get((cluster, vmid), 0)

    def at_end(self, vms: Sequence[Vm]) -> tuple[dict[str, Record], list[str]]:
        """Rows to write and keys to delete when these VMs of one virtual cluster end, by what they were until then.

        Those that end without having joined leave that; what was left for them is nobody's any more.
        """
        if not vms:
            return {}, []
        cluster = vms[0].cluster
        going = {vm.vmid for vm in vms}
        there = {vm.vmid for vm in self._book.vms(cluster) if vm.state in LIVE} - going
        put: dict[str, Record] = {}
        delete = [key for vmid in going for key in self._rows.get((cluster, vmid), ())]
        coming: dict[int, int] = collections.Counter()
        for vm in vms:
            if vm.parent not in there or vm.state in ("starting", "dead"):
                continue  # nobody to tell; never handed out; told already
            key = joined_key(vm.ticket, vm.vmid)
            if self._book.find(key, Joined) is None and self._was_made(vm):
                put[key] = left_by(vm, -1)
                coming[vm.parent or 0] += 1
        for vmid, count in coming.items():
            delete += self._too_many((cluster, vmid), count)
        return put, delete

    def _was_made(self, vm: Vm) -> bool:
        """Whether the fork that it is of was done; else its caller knows nothing of it."""
        ticket = self._book.find(ticket_key(vm.ticket), Ticket)
        return ticket is not None and ticket.status == "used"

    def _too_many(self, whose: Whose, coming: int) -> list[str]:
        rows = self._rows.get(whose, {})
        if len(rows) + coming <= KEPT_MOST:
            return []
        oldest = sorted(rows, key=lambda key: rows[key].ended)
        return oldest[: len(rows) + coming - KEPT_MOST + KEPT_MOST // 4]


class Joins:
    """The verbs: a clone that ends itself, and a caller that waits for its clones."""

    def __init__(self, book: Book, results: Results, end: End) -> None:
        self._book = book
        self._results = results
        self._end = end
        self._waiting: dict[str, set[asyncio.Event]] = {}
        book.on_change(self._seen)

    async def join(self, clone: Vm, args: dict[str, Any]) -> None:
        """Ends a clone; its room is free on return. Raises Refused for the master, BadInput, NoRoom."""
        if clone.vmid == 0 or clone.parent is None:
            raise Refused("join: the master is no clone: it has nobody to report to")
        status, file = args.get("status", 0), args.get("file")
        if isinstance(status, bool) or not isinstance(status, int) or not 0 <= status <= 255:
            raise BadInput(f"join: expected a status from 0 to 255, got {status!r:.40}")
        if not isinstance(report := args.get("report", True), bool):
            raise BadInput(f"join: report: expected true or false, got {report!r:.40}")
        if file is not None:
            self._check_file(clone.cluster, clone.parent, file)
        left = left_by(clone, status, file) if report else left_by(clone, None)
        parents = [vm for vm in self._book.vms(clone.cluster) if vm.vmid == clone.parent]
        if not any(vm.state in LIVE for vm in parents):
            await self._end(clone, {})  # there is nobody to tell
        else:
            await self._end(clone, {joined_key(clone.ticket, clone.vmid): left})

    def _check_file(self, cluster: str, parent: int, file: object) -> None:
        try:
            size = len(base64.b64decode(file, validate=True)) if isinstance(file, str) else -1
        except (binascii.Error, ValueError):
            size = -1
        if size < 0:
            raise BadInput(f"join: file: expected base64, got {file!r:.40}")
        if size > FILE_MOST:
            raise BadInput(f"join: file: expected at most {FILE_MOST} bytes, got {size}")
        if self._results.files(cluster, parent) + len(str(file)) > FILES_MOST:
            raise NoRoom(f"join: VM {parent} has {FILES_MOST >> 20} MiB of files to collect first")

    async def wait(self, caller: Vm, args: dict[str, Any]) -> dict[str, Any]:
        """What every clone of a ticket left, once all have ended. Raises NotFound, BadInput, TimedOut.

        A long answer has `next`, a vmid: the rest comes `after` it.
        """
        ticket = str(args.get("ticket"))
        timeout_ms, after = time_out(args, "join"), args.get("after", -1)
        if isinstance(after, bool) or not isinstance(after, int):
            raise BadInput(f"join: after: expected a vmid, got {after!r:.40}")
        if not (self._holds(caller, ticket) or self._results.of(caller, ticket)):
            raise NotFound(f"join: there is no ticket {ticket!r:.60}")
        await self._all_ended(caller, ticket, timeout_ms)
        rows = self._results.of(caller, ticket)
        await self._book.settled(*rows)
        return _page([row for row in rows.values() if row.vmid > after and row.status is not None])

    async def collected(self, caller: Vm, args: dict[str, Any]) -> None:
        """The caller has what the clones of a ticket left: it is kept no longer."""
        ticket = str(args.get("ticket"))
        rows = self._results.of(caller, ticket)
        if rows and not self._left(caller, ticket):
            await self._book.commit(delete=rows)

    def _holds(self, caller: Vm, ticket: str) -> bool:
        found = self._book.find(ticket_key(ticket), Ticket)
        return found is not None and (found.cluster, found.holder) == (caller.cluster, caller.vmid)

    def _left(self, caller: Vm, ticket: str) -> list[int]:
        """The clones that have not ended, or whose room is not free yet."""
        return [
            vm.vmid
            for vm in self._book.vms(caller.cluster)
            if vm.ticket == ticket and vm.parent == caller.vmid and vm.state in (*LIVE, "ending")
        ]

    async def _all_ended(self, caller: Vm, ticket: str, timeout_ms: int | None) -> None:
        changed = asyncio.Event()
        waiting = self._waiting.setdefault(ticket, set())
        waiting.add(changed)
        try:
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
                while self._left(caller, ticket):
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            late = named(self._left(caller, ticket))
            raise TimedOut(f"join: {late} did not end within {timeout_ms} ms") from None
        finally:
            waiting.discard(changed)
            if not waiting:
                self._waiting.pop(ticket, None)

    def _seen(self, key: str, before: Record | None, after: Record | None) -> None:
        if not isinstance(before, Vm) or (isinstance(after, Vm) and after.state != "dead"):
            return
        for changed in self._waiting.get(before.ticket, ()):
            changed.set()


def left_by(clone: Vm, status: int | None, file: str | None = None) -> Joined:
    """What a clone leaves; status None: nobody is told."""
    assert clone.parent is not None
    return Joined(
        cluster=clone.cluster,
        ticket=clone.ticket,
        parent=clone.parent,
        vmid=clone.vmid,
        status=status,
        file=file,
        ended=now(),
    )


def _page(rows: list[Joined]) -> dict[str, Any]:
    """As many as a message holds, one at least."""
    clones: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        size += len(row.file or "") + 64
        if clones and size > PAGE:
            return {"clones": clones, "next": clones[-1]["vmid"]}
        clones.append({"vmid": row.vmid, "status": row.status, "file": row.file})
    return {"clones": clones}
