"""What clones of an image write, learnt from those that ran: what is reserved for the next one.

An image's estimate is the 90th percentile of its last WINDOW samples, the largest one never counted: one strange clone
changes nothing, and a workload that changed is followed within WINDOW samples. A clone is measured when it is 5 s old,
then at twice the age, and so on: what grows is seen growing, and one that lives long does not outweigh the others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from copper.controller.book import Book
from copper.controller.rows import HELD, ClusterRow, Learnt, cluster_key, learnt_key, vm_key
from copper.model.api import HostReport, Vm
from copper.model.errors import CopperError
from copper.model.machine import Record

MIB = 1 << 20
EXPECTED = 32 * MIB  # until SURE samples were seen
LEAST = 8 * MIB
SURE = 8
WINDOW = 64
QUANTILE = 0.9
MARGIN = 1.25
FIRST_AGE_S = 5.0
WRITE_S = 10.0
log = logging.getLogger(__name__)


def taught(image: str, before: Learnt | None, samples: Iterable[int]) -> Learnt:
    """What is known of an image after these samples of own bytes."""
    more = [max(0, sample) for sample in samples]
    recent = [*(before.recent if before is not None else []), *more][-WINDOW:]
    seen = (before.seen if before is not None else 0) + len(more)
    # of eight samples this is the second largest: int() never takes the largest of two or more
    estimate = sorted(recent)[int(QUANTILE * (len(recent) - 1))] if recent else 0
    return Learnt(image=image, own_bytes=estimate, seen=seen, recent=recent)


def reservation(known: Learnt | None, nominal_bytes: int) -> int:
    """The bytes to keep for a clone of an image: never less than 8 MiB, unless the clone has less itself."""
    expected = EXPECTED
    if known is not None and len(known.recent) >= SURE:
        expected = max(LEAST, int(known.own_bytes * MARGIN))
    return min(expected, nominal_bytes)


class Learning:
    """Takes samples from hosts' reports; `expected` says what to reserve."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._ages: dict[str, dict[str, tuple[float, float, float]]] = {}
        self._fresh: set[str] = set()  # images with samples that are not written yet
        self._known: dict[str, Learnt] = {}  # with what is not written yet
        self._written_at = time.monotonic()
        book.on_change(self._seen)

    def _seen(self, key: str, before: Record | None, after: Record | None) -> None:
        if isinstance(after, Learnt):  # as the store had it; after that, nobody else writes it
            self._known.setdefault(after.image, after)

    def expected(self, image: str, nominal_bytes: int) -> int:
        """The bytes to reserve for a clone of this image."""
        return reservation(self._known.get(image), nominal_bytes)

    def sample(self, image: str, own_bytes: int) -> None:
        """A clone that is at least 5 s old holds so many bytes of its own."""
        self._fresh.add(image)
        self._known[image] = taught(image, self._known.get(image), [own_bytes])

    def see(self, report: HostReport, at: float | None = None) -> None:
        """Takes the samples of a report. `at`: seconds of the monotonic clock, now if not given."""
        at = time.monotonic() if at is None else at
        before = self._ages.get(report.facts.name, {})
        ages: dict[str, tuple[float, float, float]] = {}
        for use in report.vms:
            vm = self._book.find(vm_key(use.name), Vm)
            if vm is None or vm.parent is None or vm.state not in HELD:
                continue
            # a name may be another VM's by now: then its row was made at another time
            made, since, due = before.get(use.name, (vm.created, at, FIRST_AGE_S))
            if made != vm.created:
                since, due = at, FIRST_AGE_S
            if at - since >= due:
                due = 2 * (at - since)
                row = self._book.find(cluster_key(vm.cluster), ClusterRow)
                if row is not None:
                    self.sample(row.image, use.own_bytes)
            ages[use.name] = (vm.created, since, due)
        self._ages[report.facts.name] = ages

    async def write(self, *, now: bool = False) -> None:
        """Writes what was learnt; does nothing within WRITE_S of the last time, unless `now`."""
        if not self._fresh or (not now and time.monotonic() - self._written_at < WRITE_S):
            return
        self._written_at = time.monotonic()
        put: dict[str, Record] = {learnt_key(image): self._known[image] for image in self._fresh}
        self._fresh.clear()
        try:
            await self._book.commit(put=put)
        except (
            CopperError
        ) as error:  # it is known here all the same, and written with the next samples
            log.warning("what clones write could not be written: %s", error)
