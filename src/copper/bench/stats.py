"""Samples and what is said of them: median, 95th percentile, worst, and ratios of medians."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Literal

Unit = Literal["ms", "MB"]
Load = Literal["idle", "busy", "-"]


ABSENT = "-"  # in the place of a figure that there is not


@dataclasses.dataclass(frozen=True, order=True)
class Guest:
    """A guest that is measured: a recipe's image at a size."""

    recipe: str
    memory_mib: int

    @property
    def image(self) -> str:
        return f"bench-{self.recipe}-{self.memory_mib}"

    @property
    def label(self) -> str:
        if self.memory_mib % 1024 == 0:
            return f"{self.recipe} {self.memory_mib >> 10} GiB"
        return f"{self.recipe} {self.memory_mib} MiB"


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a list of samples says. `worst` is the largest: all that is measured here is better when less."""

    n: int
    p50: float
    p95: float
    worst: float


def summarize(samples: Sequence[float]) -> Summary:
    """The nearest rank is taken for p95: a value that was measured. Raises ValueError for none."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    rank = math.ceil(0.95 * len(ordered))
    return Summary(len(ordered), statistics.median(ordered), ordered[rank - 1], ordered[-1])


@dataclasses.dataclass(frozen=True)
class Tail(Summary):
    """A summary with p99. Where more is better, p95, p99 and the worst are on the side of the least."""

    p99: float


def summarize_tail(samples: Sequence[float], *, more_is_better: bool = False) -> Tail:
    """As `summarize`, with p99 taken in the same way. Raises ValueError for none."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples, reverse=more_is_better)

    def rank(share: float) -> float:
        return ordered[math.ceil(share * len(ordered)) - 1]

    return Tail(
        len(ordered), statistics.median(ordered), rank(0.95), worst=ordered[-1], p99=rank(0.99)
    )


@dataclasses.dataclass
class Series:
    """All samples of one kind for one guest under one load."""

    guest: Guest
    load: Load
    kind: str
    unit: Unit
    samples: list[float]
    fewer: str = ""  # why there are fewer than runs asked for

    @property
    def summary(self) -> Summary:
        return summarize(self.samples)


@dataclasses.dataclass(frozen=True)
class Missing:
    """What was to be measured and was not, and why."""

    guest: Guest
    load: Load
    kind: str
    reason: str
    times: int = 1


class Samples:
    """Everything that one run measured, in the order in which it was first measured."""

    def __init__(self) -> None:
        self._series: dict[tuple[Guest, Load, str], Series] = {}
        self._missing: dict[tuple[Guest, Load, str, str], Missing] = {}

    def add(self, guest: Guest, load: Load, kind: str, value: float, unit: Unit = "ms") -> None:
        key = (guest, load, kind)
        if key not in self._series:
            self._series[key] = Series(guest, load, kind, unit, [])
        self._series[key].samples.append(value)

    def lacks(self, guest: Guest, load: Load, kind: str, reason: str) -> None:
        """Writes down a measurement that failed or was left out; nothing stands in its place."""
        key = (guest, load, kind, reason)
        before = self._missing.get(key)
        self._missing[key] = Missing(
            guest, load, kind, reason, before.times + 1 if before is not None else 1
        )

    def explain_fewer(self, guest: Guest, load: Load, kind: str, reason: str) -> None:
        found = self._series.get((guest, load, kind))
        if found is not None:
            found.fewer = reason

    def get(self, guest: Guest, load: Load, kind: str) -> Summary | None:
        """None when there is no sample of it."""
        found = self._series.get((guest, load, kind))
        return found.summary if found is not None else None

    def p50(self, guest: Guest, load: Load, kind: str) -> float | None:
        found = self.get(guest, load, kind)
        return found.p50 if found is not None else None

    def ratio(self, guest: Guest, above: tuple[Load, str], below: tuple[Load, str]) -> float | None:
        """How many times the median of `below` fits into that of `above`; None when one is not there."""
        upper, lower = self.p50(guest, *above), self.p50(guest, *below)
        return upper / lower if upper is not None and lower else None

    def __iter__(self) -> Iterator[Series]:
        return iter(self._series.values())

    @property
    def missing(self) -> list[Missing]:
        return list(self._missing.values())

    @property
    def guests(self) -> list[Guest]:
        """In the order in which they were met, those of which everything failed included."""
        met = [series.guest for series in self] + [lack.guest for lack in self.missing]
        return list(dict.fromkeys(met))


def number(value: float | None) -> str:
    """Three digits that count, as a person writes them."""
    if value is None:
        return ABSENT
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
