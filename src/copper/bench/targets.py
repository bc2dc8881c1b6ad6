"""The figures to reach, each with its limit, and whether this run reached it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from copper.bench import kinds
from copper.bench.stats import Guest, Load, Samples, number

SLOWER_RECIPES = 2  # times: what a whole distribution may take, where micro has a limit
# ms that a caller may stand still, whatever its memory, its clones' number and its depth
PAUSE = 10
MICRO, DEBIAN = "micro", "debian-12"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One line of what was to be reached. `figure` and `reached` are None where nothing was measured."""

    what: str
    figure: float | None
    unit: str
    limit: float
    at_least: bool = False
    note: str = ""

    @property
    def reached(self) -> bool | None:
        if self.figure is None:
            return None
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    @property
    def word(self) -> str:
        return {True: "reached", False: "not reached", None: "not measured"}[self.reached]


def verdicts(samples: Samples) -> list[Verdict]:
    """All of them, for idle guests; over several sizes the worst counts."""
    micro = [guest for guest in samples.guests if guest.recipe == MICRO]
    debian = [guest for guest in samples.guests if guest.recipe == DEBIAN]
    found = [
        _most(samples, micro, kinds.PAUSE, "pause, p50", PAUSE),
        _flat_pause(samples),
        _most(samples, micro, kinds.CLONE_ANSWER, "call to first answer, p50", 150),
        _most(samples, micro, kinds.CLONES_ANSWER, f"{kinds.CLONES} clones answering, p50", 1000),
        _most(samples, debian, kinds.CLONE_ANSWER, "debian-12: call to first answer, p50", 300),
        _most(
            samples,
            debian,
            kinds.CLONES_ANSWER,
            f"debian-12: {kinds.CLONES} clones answering, p50",
            2000,
        ),
        _faster(samples, micro, kinds.COLD, "first answer, against cold boot", 30),
        _faster(samples, debian, kinds.COLD, "debian-12: first answer, against cold boot", 80),
        _faster(
            samples,
            [guest for guest in micro if guest.memory_mib == 1024],
            kinds.LOADVM,
            "first answer at 1 GiB, against -loadvm",
            10,
        ),
        _most(samples, micro, kinds.OWN_IDLE, "own memory of an idle clone, p50", 25, unit="MB"),
    ]
    for what in ("pause", "thaw", "first answer"):
        found.append(_deep(samples, micro, what))
    found.append(_layers(samples, micro))
    found.append(_most(samples, debian, kinds.BOOT, "debian-12: boot from template, p50", 1000))
    return found


def _worst(
    values: Iterable[tuple[Guest, float | None]], worse: Callable[[float, float], bool]
) -> tuple[float | None, str]:
    """The worst of what was measured, and where."""
    found: float | None = None
    where = ""
    for guest, value in values:
        if value is not None and (found is None or worse(value, found)):
            found, where = value, guest.label
    return found, where


def _most(
    samples: Samples, guests: list[Guest], kind: str, what: str, limit: float, unit: str = "ms"
) -> Verdict:
    values = [(guest, samples.p50(guest, "idle", kind)) for guest in guests]
    figure, where = _worst(values, lambda a, b: a > b)
    tail = next((samples.get(g, "idle", kind) for g in guests if g.label == where), None)
    note = f"{where}; p95 {number(tail.p95)} {unit}" if tail is not None else ""
    return Verdict(what, figure, unit, limit, note=note)


def _flat_pause(samples: Samples) -> Verdict:
    small = samples.p50(Guest(MICRO, 256), "idle", kinds.PAUSE)
    large = samples.p50(Guest(MICRO, 2048), "idle", kinds.PAUSE)
    figure = large / small if large is not None and small else None
    return Verdict("pause at 2 GiB over that at 256 MiB, p50", figure, "x", 1.5)


def _faster(samples: Samples, guests: list[Guest], peer: str, what: str, limit: float) -> Verdict:
    above: tuple[Load, str] = ("-", peer)
    values = [
        (guest, samples.ratio(guest, above, ("idle", kinds.CLONE_ANSWER))) for guest in guests
    ]
    figure, where = _worst(values, lambda a, b: a < b)
    return Verdict(what, figure, "x", limit, at_least=True, note=where)


def _deep(samples: Samples, guests: list[Guest], what: str) -> Verdict:
    last: tuple[Load, str] = ("idle", kinds.of_generation(kinds.DEEPEST, what))
    first: tuple[Load, str] = ("idle", kinds.of_generation(1, what))
    figure, where = _worst(
        [(guest, samples.ratio(guest, last, first)) for guest in guests], lambda a, b: a > b
    )
    title = f"generation {kinds.DEEPEST} over generation 1, {what}, p50"
    return Verdict(title, figure, "x", 1.25, note=where)


def _layers(samples: Samples, guests: list[Guest]) -> Verdict:
    values = [
        (guest, samples.p50(guest, "idle", kind))
        for guest in guests
        for kind in (kinds.LAYER_IDLE, kinds.LAYER_DEEP)
    ]
    figure, where = _worst(values, lambda a, b: a > b)
    return Verdict("an idle generation stores, p50", figure, "MB", 2, note=where)
