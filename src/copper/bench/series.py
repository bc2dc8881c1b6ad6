"""A bench whose rows are kinds: its samples, as they are printed and written down.

bench-NAME.json: format, bench, asked (what was asked for), started (seconds since 1970), seconds, ended
machine       copper.bench.machine.facts
load_before, load_after   the machine's load averages
definitions   what each kind measures, from where to where
series        kind, unit, n, p50, p95, p99, worst, samples
ratios        what, ratio (medians)
missing       kind, reason
targets       what, figure, unit, limit, at_least, reached (true, false or null), note
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from copper.bench.measured import Measured
from copper.bench.stats import Tail, number, summarize_tail
from copper.bench.table import OTHERS_LOAD, aligned, targets
from copper.bench.targets import Verdict
from copper.model.errors import CopperError

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Kind:
    """One row of the table."""

    name: str
    unit: str
    means: str


@dataclasses.dataclass(frozen=True)
class Target:
    """A figure to reach: of a kind, or of one kind's median over another's."""

    what: str
    kind: str
    limit: float
    over: str = ""
    at: str = "p50"

    def verdict(self, found: Mapping[str, Tail], units: Mapping[str, str]) -> Verdict:
        tail = found.get(self.kind)
        figure = getattr(tail, self.at) if tail else None
        note = f"n {tail.n}; p95 {number(tail.p95)}, worst {number(tail.worst)}" if tail else ""
        if self.over:
            below = found.get(self.over)
            figure = figure / below.p50 if figure is not None and below and below.p50 else None
            return Verdict(self.what, figure, "x", self.limit, note=note)
        return Verdict(self.what, figure, units.get(self.kind, "ms"), self.limit, note=note)


@dataclasses.dataclass
class Results(Measured):
    """A run of the bench of this name, and what was asked for."""

    bench: str
    asked: dict[str, Any]
    kinds: Sequence[Kind]
    goals: Sequence[Target] = ()
    compared: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)

    @property
    def found(self) -> dict[str, Tail]:
        """By kind, those that were measured, in the order of the table."""
        return {
            kind.name: summarize_tail(self.samples[kind.name])
            for kind in self.kinds
            if self.samples.get(kind.name)
        }

    @property
    def verdicts(self) -> list[Verdict]:
        units = {kind.name: kind.unit for kind in self.kinds}
        return [goal.verdict(self.found, units) for goal in self.goals]

    @property
    def ratios(self) -> dict[str, float]:
        """Medians over medians of this run."""
        found = self.found
        return {
            what: found[above].p50 / found[below].p50
            for what, (above, below) in self.compared.items()
            if above in found and below in found and found[below].p50
        }

    @contextlib.contextmanager
    def said(self, kind: str) -> Iterator[None]:
        """What cannot be measured in this block is written down, and the rest goes on."""
        try:
            yield
        except CopperError as error:
            self.missing[kind] = str(error)

    def as_json(self) -> dict[str, Any]:
        """The members are listed above; what is written here is not changed without a new format."""
        whole = self.whole()
        for own in ("kinds", "goals", "compared"):
            del whole[own]
        found = self.found
        return {
            "format": FORMAT,
            **whole,
            "definitions": {kind.name: kind.means for kind in self.kinds},
            "series": [
                {
                    "kind": kind.name,
                    "unit": kind.unit,
                    **dataclasses.asdict(found[kind.name]),
                    "samples": self.samples[kind.name],
                }
                for kind in self.kinds
                if kind.name in found
            ],
            "ratios": [{"what": what, "ratio": ratio} for what, ratio in self.ratios.items()],
            "missing": [{"kind": kind, "reason": why} for kind, why in self.missing.items()],
            "targets": self.targets(),
        }


def report(results: Results) -> str:
    """Everything that a person reads of a run."""
    known = results.machine
    before, after = (
        " ".join(f"{value:.2f}" for value in values)
        for values in (results.load_before, results.load_after)
    )
    asked = ", ".join(f"{name} {value}" for name, value in results.asked.items())
    title = f"copper bench {results.bench}: {asked}, in {results.seconds / 60:.0f} min"
    processors = f"{known['processors']} processors ({known['processor']})"
    head = [
        f"{title}; p50, p95, p99 and worst of n",
        f"  QEMU {known['qemu']} ({known['accelerator']}), {processors}, Linux {known['kernel']}",
        f"  load average before {before}, after {after}",
    ]
    most = OTHERS_LOAD * float(str(known["processors"]))
    if results.load_before and results.load_before[0] > most:
        head.append("  other programs ran on this machine: the times are longer than its own")
    if results.ended:
        head.append(f"  ended early: {results.ended}")
    rows = [["", "", "n", "p50", "p95", "p99", "worst"]]
    units = {kind.name: kind.unit for kind in results.kinds}
    for kind, tail in results.found.items():
        figures = (tail.p50, tail.p95, tail.p99, tail.worst)
        rows.append([kind, units[kind], str(tail.n), *map(number, figures)])
    parts = ["\n".join(head), aligned(rows)]
    if results.ratios:
        lines = [["ratios of medians", ""], *([w, number(r)] for w, r in results.ratios.items())]
        parts.append(aligned(lines))
    if results.missing:
        lacks = [f"  {kind}: {why}" for kind, why in results.missing.items()]
        parts.append("\n".join(["not measured", *lacks]))
    if results.goals:
        parts.append(targets(results.verdicts, "to reach"))
    return "\n\n".join(parts) + "\n"
