"""The controller's state in memory, as the store has it: reads cost nothing, writes are durable when they return.

A record is seen from the moment that it is decided, so that what it takes is not given out twice; who asked is
answered once it is durable. A write that the store refuses is taken back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar, cast

from copper.controller.rows import TABLES, ClusterRow, cluster_key, ticket_key, vm_key
from copper.model.api import Vm
from copper.model.errors import NotFound
from copper.model.machine import Record
from copper.model.tickets import Ticket
from copper.store.contract import Changed, Store

R = TypeVar("R", bound=Record)
Seen = Callable[[str, Record | None, Record | None], None]  # key, before, after


class Book:
    """All tables, in memory and in the store. One controller writes a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._tables: dict[str, dict[str, Record]] = {name: {} for name in TABLES}
        self._revisions: dict[str, int] = {}
        self._writing: dict[str, asyncio.Task[int]] = {}
        self._vms: dict[str, dict[int, Vm]] = {}  # by virtual cluster
        self._tickets: dict[str, dict[str, Ticket]] = {}
        self._watchers: list[Seen] = []
        self._open = False
        self._timed: Callable[[float], None] = lambda seconds: None
        self._settled: list[Callable[[Iterable[str]], None]] = []

    async def open(self) -> None:
        """Reads all that the store has; once."""
        if self._open:
            return
        self._open = True
        for entry in await self.store.list(""):
            kind = TABLES.get(entry.key.partition("/")[0])
            if kind is not None:
                self._revisions[entry.key] = entry.revision
                self._apply(entry.key, kind.model_validate(entry.value))

    def on_change(self, seen: Seen) -> None:
        """Calls `seen` at every change, at once; and for what is there already, now."""
        self._watchers.append(seen)
        for name, table in self._tables.items():
            for key, record in list(table.items()):
                seen(f"{name}/{key}", None, record)

    def on_commit(self, timed: Callable[[float], None]) -> None:
        """Calls `timed` with the seconds that each durable write took."""
        self._timed = timed

    def on_settled(self, settled: Callable[[Iterable[str]], None]) -> None:
        """Calls `settled` with the keys of each write that has been done or taken back."""
        self._settled.append(settled)

    def find(self, key: str, kind: type[R]) -> R | None:
        """The record of a key, or None."""
        table, _, name = key.partition("/")
        return cast("R | None", self._tables[table].get(name))

    def all(self, table: str, kind: type[R]) -> list[R]:
        """All records of a table, by key."""
        rows = self._tables[table]
        return [cast("R", rows[name]) for name in sorted(rows)]

    def cluster(self, name: str) -> ClusterRow:
        """Raises NotFound."""
        row = self.find(cluster_key(name), ClusterRow)
        if row is None:
            raise NotFound(f"there is no virtual cluster {name!r}", advice="gc-vc list shows all")
        return row

    def clusters(self) -> list[ClusterRow]:
        return self.all("clusters", ClusterRow)

    def vm(self, name: str) -> Vm:
        """Raises NotFound."""
        vm = self.find(vm_key(name), Vm)
        if vm is None:
            raise NotFound(f"there is no VM {name!r}", advice="gc-vm list shows all")
        return vm

    def vms(self, cluster: str | None = None) -> list[Vm]:
        """VMs of one virtual cluster, or of all, by cluster and vmid."""
        if cluster is not None:
            rows = self._vms.get(cluster, {})
            return [rows[vmid] for vmid in sorted(rows)]
        return [vm for name in sorted(self._vms) for vm in self.vms(name)]

    def ticket(self, ticket: object) -> Ticket:
        """Raises NotFound."""
        row = self.find(ticket_key(str(ticket)), Ticket)
        if row is None:
            raise NotFound(f"there is no ticket {ticket!r:.60}")
        return row

    def tickets(self, cluster: str | None = None) -> list[Ticket]:
        if cluster is not None:
            return list(self._tickets.get(cluster, {}).values())
        return self.all("tickets", Ticket)

    async def commit(
        self,
        *,
        expect: Mapping[str, Record | None] = {},
        put: Mapping[str, Record] = {},
        delete: Iterable[str] = (),
    ) -> int:
        """Writes all or nothing: durable when it returns. Returns the store's revision.

        `expect`: keys and the very records that were read, None for absent. Raises Changed, and what the store raises;
        nothing is changed then. A caller that goes away does not undo it.
        """
        delete = list(delete)
        await self.settled(*expect, *put, *delete)
        return await asyncio.shield(self.submit(expect=expect, put=put, delete=delete))

    async def settled(self, *keys: str) -> None:
        """Returns when none of these keys is being written: what is decided then can be submitted at once."""
        while before := {self._writing[key] for key in keys if key in self._writing}:
            await asyncio.wait(before)

    async def cluster_settled(self, name: str) -> None:
        """Returns when no row of a virtual cluster is being written."""
        while True:
            keys = [cluster_key(name)]
            keys += [vm_key(vm.name) for vm in self.vms(name)]
            keys += [ticket_key(ticket.id) for ticket in self.tickets(name)]
            if not any(key in self._writing for key in keys):
                return
            await self.settled(*keys)

    def submit(
        self,
        *,
        expect: Mapping[str, Record | None] = {},
        put: Mapping[str, Record] = {},
        delete: Iterable[str] = (),
    ) -> asyncio.Task[int]:
        """As `commit`, for keys that are settled: seen at once, durable when the task is done. Raises Changed."""
        delete = [key for key in delete if key not in put]
        keys = {*expect, *put, *delete}
        if any(key in self._writing for key in keys):
            raise Changed("it is being written")
        for key, wanted in expect.items():
            if self.find(key, Record) != wanted:
                raise Changed(f"{key} has changed")
        old = {key: self.find(key, Record) for key in {*put, *delete}}
        revisions = {key: self._revisions.get(key, 0) for key in expect}
        for key in old:
            self._apply(key, put.get(key))
        task = asyncio.create_task(self._write(revisions, put, delete, old))
        for key in keys:
            self._writing[key] = task
        return task

    async def _write(
        self,
        revisions: dict[str, int],
        put: Mapping[str, Record],
        delete: list[str],
        old: dict[str, Record | None],
    ) -> int:
        values = {key: record.model_dump(mode="json") for key, record in put.items()}
        began = time.monotonic()
        try:
            revision = await self.store.commit(expect=revisions, put=values, delete=delete)
        except BaseException:
            for key, record in old.items():
                self._apply(key, record)
            raise
        finally:
            for key in {*revisions, *old}:
                del self._writing[key]
            for settled in self._settled:
                settled(old)
        self._timed(time.monotonic() - began)
        for key in put:
            self._revisions[key] = revision
        for key in delete:
            self._revisions.pop(key, None)
        return revision

    def _apply(self, key: str, record: Record | None) -> None:
        table, _, name = key.partition("/")
        rows = self._tables[table]
        before = rows.get(name)
        if record is None:
            rows.pop(name, None)
        else:
            rows[name] = record
        for one in (before, record):
            here = one is record
            if isinstance(one, Vm):
                _index(self._vms, one.cluster, one.vmid, one if here else None)
            elif isinstance(one, Ticket):
                _index(self._tickets, one.cluster, one.id, one if here else None)
        for seen in self._watchers:
            seen(key, before, record)


K = TypeVar("K")


def _index(index: dict[str, dict[K, R]], cluster: str, key: K, record: R | None) -> None:
    if record is not None:
        index.setdefault(cluster, {})[key] = record
        return
    rows = index.get(cluster, {})
    rows.pop(key, None)
    if not rows:
        index.pop(cluster, None)


def now() -> float:
    """Seconds since 1970, for people; nothing is decided by it."""
    return time.time()
