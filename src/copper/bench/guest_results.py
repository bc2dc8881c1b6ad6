"""What one run of `copper bench guest` found, as it is printed and written down: bench-guest.json.

format, bench, started (seconds since 1970), seconds, rounds, image, clones, ended
machine       copper.bench.machine.facts
load_before, load_after   the machine's load averages
definitions   what each kind measures, from where to where
series        kind, unit, n, p50, p95, p99, worst, samples
ratios        what, ratio (medians)
missing       kind, reason
targets       what, figure, unit, limit, at_least, reached (true, false or null), note
"""

from __future__ import annotations

import dataclasses
from typing import Any

from copper.bench import guest_kinds as kinds
from copper.bench.measured import Measured
from copper.bench.stats import number
from copper.bench.table import OTHERS_LOAD, aligned, targets
from copper.bench.targets import Verdict

FORMAT = 1


@dataclasses.dataclass
class Results(Measured):
    """A run, and what was asked for."""

    rounds: int
    image: str
    clones: int

    @property
    def verdicts(self) -> list[Verdict]:
        return kinds.verdicts(self.samples)

    def as_json(self) -> dict[str, Any]:
        """The members are listed above; what is written here is not changed without a new format."""
        found = kinds.summaries(self.samples)
        return {
            "format": FORMAT,
            "bench": "guest",
            **self.whole(),
            "definitions": {kind.name: kind.means for kind in kinds.KINDS},
            "series": [
                {
                    "kind": kind.name,
                    "unit": kind.unit,
                    **dataclasses.asdict(found[kind.name]),
                    "samples": self.samples[kind.name],
                }
                for kind in kinds.KINDS
                if kind.name in found
            ],
            "ratios": [
                {"what": what, "ratio": ratio} for what, ratio in kinds.ratios(self.samples).items()
            ],
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
    rounds = f"{results.rounds} rounds with {results.image} in {results.seconds / 60:.0f} min"
    processors = f"{known['processors']} processors ({known['processor']})"
    head = [
        f"copper bench guest: {rounds}; p50, p95, p99 and worst of n",
        f"  QEMU {known['qemu']} ({known['accelerator']}), {processors}, Linux {known['kernel']}",
        f"  load average before {before}, after {after}",
    ]
    if results.load_before and results.load_before[0] > OTHERS_LOAD * float(
        str(known["processors"])
    ):
        head.append("  other programs ran on this machine: the times are longer than its own")
    if results.ended:
        head.append(f"  ended early: {results.ended}")
    rows = [["", "", "n", "p50", "p95", "p99", "worst"]]
    for kind in kinds.KINDS:
        if (found := kinds.summaries(results.samples).get(kind.name)) is not None:
            figures = (found.p50, found.p95, found.p99, found.worst)
            rows.append([kind.name, kind.unit, str(found.n), *map(number, figures)])
    parts = ["\n".join(head), aligned(rows)]
    shares = kinds.ratios(results.samples)
    if shares:
        lines = [["ratios of medians", ""], *([what, number(one)] for what, one in shares.items())]
        parts.append(aligned(lines))
    if results.missing:
        lacks = [f"  {kind}: {why}" for kind, why in results.missing.items()]
        parts.append("\n".join(["not measured", *lacks]))
    parts.append(targets(results.verdicts, "to reach"))
    return "\n\n".join(parts) + "\n"
