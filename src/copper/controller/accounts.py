"""Accounts: what virtual clusters used, from hosts' reports to rows of usage by cluster, owner and hour.

**Counters** (processor seconds, bytes of disk and network) are exact. A host says how far each counter of each VM is;
what it grew by since the last report is used. How far it has been counted is written in the same transaction as the
rows of usage that it went into, so that a crash loses no increment and counts none twice. A counter that is lower than
it was began anew at 0, as one of another process of the VM did. The last increment of a VM is in its host's report as
`ended`. Lost is what a VM used after the last report before its host crashed.

**Byte-seconds** and VM-seconds are areas, by the trapezoid rule: between two reports of a host each amount is taken to
have gone straight from the one to the other, and a VM that is not in a report had nothing then. Of a longer gap three
report intervals are counted, no more, and nothing of the time that no controller ran: nobody knows.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

from copper.controller.book import Book
from copper.controller.rows import (
    HELD,
    ClusterRow,
    Counted,
    UsageRow,
    cluster_key,
    counted_key,
    usage_key,
    vm_key,
)
from copper.model.api import HostReport, Vm, VmUse
from copper.model.errors import CopperError
from copper.model.machine import Record
from copper.model.usage import Usage

HOUR = 3600
DAY = 24 * HOUR
GAP_REPORTS = 3  # of a longer gap between two reports so many intervals are counted
WRITE_S = 10.0
KEEP_S = 400 * DAY
HOURS_FOR_S = (
    40 * DAY
)  # older rows are joined into one a day: a year of hours would slow every start
VMS_A_WRITE = 2000  # whose counters are written in one transaction
AREAS = ("vm_s", "nominal_byte_s", "shared_byte_s", "own_byte_s", "reserved_byte_s")
COUNTERS = (
    "cpu_s",
    "disk_read_bytes",
    "disk_written_bytes",
    "net_received_bytes",
    "net_sent_bytes",
)
By = Literal["cluster", "user"]
log = logging.getLogger(__name__)

Whose = tuple[str, str]  # virtual cluster and owner
_Hour = tuple[str, str, int]


@dataclasses.dataclass(slots=True)
class _Sum:
    """What was used between two moments, in the order of AREAS and COUNTERS."""

    begin: float
    end: float
    areas: list[float] = dataclasses.field(default_factory=lambda: [0.0] * len(AREAS))
    counters: list[float] = dataclasses.field(default_factory=lambda: [0] * len(COUNTERS))

    def add(self, other: _Sum) -> None:
        self.begin, self.end = min(self.begin, other.begin), max(self.end, other.end)
        self.areas = [a + b for a, b in zip(self.areas, other.areas, strict=True)]
        self.counters = [a + b for a, b in zip(self.counters, other.counters, strict=True)]

    @classmethod
    def of(cls, usage: Usage) -> _Sum:
        return cls(
            usage.begin,
            usage.end,
            [getattr(usage, name) for name in AREAS],
            [getattr(usage, name) for name in COUNTERS],
        )

    def fields(self) -> dict[str, Any]:
        """As a Usage has them."""
        numbers = dict(zip((*AREAS, *COUNTERS), (*self.areas, *self.counters), strict=True))
        return {"begin": self.begin, "end": self.end, **numbers}


@dataclasses.dataclass(slots=True)
class _Host:
    """A host as it last said, and what of it is not written yet."""

    marks: dict[str, tuple[str, str, float, int, int, int, int]]  # as Counted.vms
    at: float | None = None
    amounts: dict[Whose, list[float]] = dataclasses.field(default_factory=dict)
    pending: dict[_Hour, _Sum] = dataclasses.field(default_factory=dict)
    changed: bool = False


class Accounts:
    """Takes reports, writes rows, answers who used what. `book` is open; nobody else writes these rows."""

    def __init__(
        self, book: Book, report_s: float = 2.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._book = book
        self.report_s = report_s  # how often hosts report now
        self._clock = clock  # says which hour it is, and nothing else
        self._hosts: dict[str, _Host] = {}
        self._owners: dict[str, str] = {}  # by virtual cluster, also of those just deleted
        self._rows: dict[Whose, dict[str, UsageRow]] = {}
        self._since_start: dict[Whose, _Sum] = {}
        self._written_at = self._tidied_at = -math.inf
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        book.on_change(self._seen)

    def _seen(self, key: str, before: Record | None, after: Record | None) -> None:
        if isinstance(after, ClusterRow):
            self._owners[after.name] = after.owner
        row = after if after is not None else before
        if isinstance(row, UsageRow):
            rows = self._rows.setdefault((row.cluster, row.owner), {})
            if isinstance(after, UsageRow):
                rows[key] = after
            else:
                rows.pop(key, None)

    # counting

    def add(self, report: HostReport, at: float | None = None) -> None:
        """Counts what a host's VMs used since its last report.

        `at`: seconds of the monotonic clock, now if not given. A report that is not later than the host's last one is
        no news.
        """
        at = time.monotonic() if at is None else at
        name = report.facts.name
        host = self._hosts.get(name)
        if host is None:
            counted = self._book.find(counted_key(name), Counted)
            host = self._hosts[name] = _Host(dict(counted.vms) if counted is not None else {})
        if host.at is not None and at <= host.at:
            return
        amounts: dict[Whose, list[float]] = {}
        used: dict[Whose, _Sum] = {}
        now = self._clock()
        for use in report.ended:
            self._count(host, use, self._vm_of(use), used, now)
        for use in report.vms:
            vm = self._vm_of(use)
            whose = self._count(host, use, vm, used, now)
            if whose is None or vm is None or vm.state not in HELD or vm.host != name:
                continue
            total = amounts.get(whose)
            if total is None:
                total = amounts[whose] = [0.0] * len(AREAS)
            total[0] += 1
            total[1] += use.nominal_bytes
            total[2] += use.shared_bytes
            total[3] += use.own_bytes
            total[4] += vm.reserved_bytes
        if host.at is not None:
            elapsed = min(at - host.at, GAP_REPORTS * self.report_s)
            for whose in host.amounts.keys() | amounts.keys():
                pair = zip(host.amounts.get(whose, NONE), amounts.get(whose, NONE), strict=True)
                _part_of(used, whose, now).areas = [(a + b) / 2 * elapsed for a, b in pair]
        for whose, part in used.items():
            host.changed = True
            _add_to(host.pending, (*whose, int(now // HOUR)), part)
            _add_to(self._since_start, whose, part)
        host.at, host.amounts = at, amounts
        self._forget(host, report)

    def _vm_of(self, use: VmUse) -> Vm | None:
        vm = self._book.find(vm_key(use.name), Vm)
        return vm if vm is not None and vm.cluster == use.cluster else None

    def _count(
        self, host: _Host, use: VmUse, vm: Vm | None, used: dict[Whose, _Sum], now: float
    ) -> Whose | None:
        """Counts what the counters grew by. Returns whose VM it is, None for nobody's."""
        key = f"{use.name} {use.process}"
        mark = host.marks.get(key)
        if mark is not None:
            cluster, owner, before = mark[0], mark[1], mark[2:]
        else:
            found = vm.owner if vm is not None else self._owners.get(use.cluster)
            if found is None:
                return None
            cluster, owner, before = use.cluster, found, NOT_COUNTED
        after = (
            use.cpu_s,
            use.disk_read_bytes,
            use.disk_written_bytes,
            use.net_received_bytes,
            use.net_sent_bytes,
        )
        whose = (cluster, owner)
        if after != before:
            host.marks[key] = (cluster, owner, *after)
            counters = _part_of(used, whose, now).counters
            for i, new in enumerate(after):
                old = before[i]
                counters[i] += new - old if new >= old else new
        return whose

    def _forget(self, host: _Host, report: HostReport) -> None:
        """Counters that will not be seen again are not kept.

        A host agent that was just started may not list all its VMs yet: those that should be there are kept.
        """
        listed = {f"{use.name} {use.process}" for use in [*report.vms, *report.ended]}
        others = {use.name for use in report.vms}
        for key in host.marks.keys() - listed:
            name = key.partition(" ")[0]
            vm = self._book.find(vm_key(name), Vm)
            here = vm is not None and vm.state in HELD and vm.host == report.facts.name
            if name in others or not here:
                del host.marks[key]
                host.changed = True

    # writing

    async def write(self, *, now: bool = False) -> None:
        """Writes what was counted; does nothing within WRITE_S of the last time, unless `now`.

        What the store does not take is kept and written with the next. A caller that goes away does not undo it.
        """
        if not now and time.monotonic() - self._written_at < WRITE_S:
            return
        self._written_at = time.monotonic()
        task = asyncio.create_task(self._write())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.shield(task)
        except CopperError as error:
            log.warning("usage could not be written and will be tried again: %s", error)

    async def _write(self) -> None:
        async with self._writing:
            batch: list[str] = []
            vms = 0
            for name in [name for name, host in self._hosts.items() if host.changed]:
                batch.append(name)
                vms += len(self._hosts[name].marks)
                if vms >= VMS_A_WRITE:
                    await self._write_hosts(batch)
                    batch, vms = [], 0
            if batch:
                await self._write_hosts(batch)
            if time.monotonic() - self._tidied_at > HOUR:
                await self._tidy()

    async def _write_hosts(self, names: list[str]) -> None:
        taken: dict[str, dict[_Hour, _Sum]] = {}
        used: dict[_Hour, _Sum] = {}
        put: dict[str, Record] = {}
        delete: list[str] = []
        for name in names:
            host = self._hosts[name]
            taken[name], host.pending, host.changed = host.pending, {}, False
            for hour, part in taken[name].items():
                _add_to(used, hour, part)
            if host.marks:
                put[counted_key(name)] = Counted(host=name, vms=host.marks)
            else:
                delete.append(counted_key(name))
        for (cluster, owner, at_hour), part in used.items():
            key = usage_key(cluster, at_hour, owner)
            if (row := self._book.find(key, UsageRow)) is not None:
                part.add(_Sum.of(row))
            put[key] = UsageRow(cluster=cluster, owner=owner, **part.fields())
        try:
            await self._book.commit(put=put, delete=delete)
        except BaseException:
            for name, parts in taken.items():
                host = self._hosts[name]
                host.changed = True
                for hour, part in parts.items():
                    _add_to(host.pending, hour, part)
            raise

    async def _tidy(self) -> None:
        """Drops rows that are too old, and joins old hours into days."""
        now = self._clock()
        put: dict[str, Record] = {}
        delete: list[str] = []
        for (cluster, owner), rows in self._rows.items():
            days: dict[int, list[str]] = {}
            for key, row in rows.items():
                if row.end < now - KEEP_S:
                    delete.append(key)
                elif row.end < now - HOURS_FOR_S:
                    days.setdefault(int(row.begin // DAY), []).append(key)
            for day, keys in days.items():
                key = usage_key(cluster, day * 24, owner)
                if keys == [key]:
                    continue
                total = _Sum.of(rows[keys[0]])
                for other in keys[1:]:
                    total.add(_Sum.of(rows[other]))
                put[key] = UsageRow(cluster=cluster, owner=owner, **total.fields())
                delete += [other for other in keys if other != key]
        if put or delete:  # a day's row and its hours are replaced in one transaction
            await self._book.commit(put=put, delete=delete)
        self._rows = {whose: rows for whose, rows in self._rows.items() if rows}
        for name in [
            n for n in self._owners if self._book.find(cluster_key(n), ClusterRow) is None
        ]:
            del self._owners[name]
        self._tidied_at = time.monotonic()

    # asking

    def usage(
        self,
        cluster: str | None = None,
        owner: str | None = None,
        begin: float | None = None,
        end: float | None = None,
        by: By = "cluster",
    ) -> list[Usage]:
        """What was used, summed per virtual cluster and owner, or per user (`cluster` is empty then).

        `begin`, `end`: seconds since 1970; every hour that has a part between them counts as a whole.
        """
        first = -math.inf if begin is None else begin // HOUR
        last = math.inf if end is None else math.ceil(end / HOUR)
        sums: dict[Whose, _Sum] = {}
        for whose, hour, part in self._parts(cluster, owner):
            if first <= hour < last:
                _add_to(sums, whose if by == "cluster" else ("", whose[1]), part)
        return [
            Usage(cluster=name, owner=user, **part.fields())
            for (name, user), part in sorted(sums.items())
        ]

    def _parts(self, cluster: str | None, owner: str | None) -> Iterator[tuple[Whose, int, _Sum]]:
        for whose, rows in self._rows.items():
            if cluster in (None, whose[0]) and owner in (None, whose[1]):
                for row in rows.values():
                    yield whose, int(row.begin // HOUR), _Sum.of(row)
        for host in self._hosts.values():
            for (name, user, hour), part in host.pending.items():
                if cluster in (None, name) and owner in (None, user):
                    yield (name, user), hour, part

    def since_start(self) -> list[Usage]:
        """Of the virtual clusters that are there: what they used since this controller started. It only grows."""
        for whose in list(self._since_start):
            row = self._book.find(cluster_key(whose[0]), ClusterRow)
            if row is None or row.owner != whose[1]:
                del self._since_start[whose]
        return [
            Usage(cluster=name, owner=user, **part.fields())
            for (name, user), part in self._since_start.items()
        ]


NONE = [0.0] * len(AREAS)
NOT_COUNTED = (0.0, 0, 0, 0, 0)


def _part_of(sums: dict[Whose, _Sum], whose: Whose, now: float) -> _Sum:
    part = sums.get(whose)
    if part is None:
        part = sums[whose] = _Sum(now, now)
    return part


def _add_to(sums: dict[Any, _Sum], key: Any, part: _Sum) -> None:
    total = sums.get(key)
    if total is None:
        sums[key] = dataclasses.replace(part)  # `add` makes new lists
    else:
        total.add(part)
