"""What one run of `copper bench dns` found, as it is printed and written down: bench-dns.json.

format, bench, started (seconds since 1970), seconds, parts, ended
options       what was asked for: seconds, rounds, vms
machine       copper.bench.machine.names_facts
load_before, load_after   the machine's load averages
definitions   what each kind measures, from where to where
series        part, kind, unit, n, p50, p95, p99, worst, samples
missing       part, reason
targets       what, figure, unit, limit, at_least, reached (true, false or null), note
"""

from __future__ import annotations

import dataclasses
from typing import Any

from copper.bench import dns_kinds as kinds
from copper.bench.measured import Measured
from copper.bench.stats import number
from copper.bench.table import OTHERS_LOAD, aligned, targets
from copper.bench.targets import Verdict

FORMAT = 1


@dataclasses.dataclass
class Results(Measured):
    """A run, and what was asked for."""

    parts: list[str]
    options: dict[str, object]

    @property
    def verdicts(self) -> list[Verdict]:
        return kinds.verdicts(self.samples, self.parts)

    def as_json(self) -> dict[str, Any]:
        """The members are listed above; what is written here is not changed without a new format."""
        found = kinds.summaries(self.samples)
        return {
            "format": FORMAT,
            "bench": "dns",
            **self.whole(),
            "definitions": {kind.name: kind.means for kind in kinds.KINDS},
            "series": [
                {
                    "part": kind.part,
                    "kind": kind.name,
                    "unit": kind.unit,
                    **dataclasses.asdict(found[kind.name]),
                    "samples": [round(value, 4) for value in self.samples[kind.name]],
                }
                for kind in kinds.KINDS
                if kind.name in found
            ],
            "missing": [{"part": part, "reason": reason} for part, reason in self.missing.items()],
            "targets": self.targets(),
        }


def report(results: Results) -> str:
    """Everything that a person reads of a run."""
    facts = results.machine
    loads = [
        " ".join(f"{value:.2f}" for value in values)
        for values in (results.load_before, results.load_after)
    ]
    head = [
        f"copper bench dns: {', '.join(results.parts)} in {results.seconds:.0f} s; p50, p95, p99 and worst of n",
        "  " + ", ".join(f"{name} {facts[name]}" for name in ("copper", "python", "dnspython")),
        f"  {facts['processors']} processors ({facts['processor']}), Linux {facts['kernel']}",
        f"  load average before {loads[0]}, after {loads[1]}",
    ]
    if results.load_before[0] > OTHERS_LOAD * float(str(facts["processors"])):
        head.append("  other programs ran on this machine: the times are longer than its own")
    if results.ended:
        head.append(f"  ended early: {results.ended}")
    parts = ["\n".join(head)]
    found = kinds.summaries(results.samples)
    for part in results.parts:
        rows = [["", "", "n", "p50", "p95", "p99", "worst"]]
        for kind in kinds.KINDS:
            if kind.part == part and (tail := found.get(kind.name)) is not None:
                figures = (tail.p50, tail.p95, tail.p99, tail.worst)
                rows.append([f"  {kind.name}", kind.unit, str(tail.n), *map(number, figures)])
        if len(rows) > 1:
            parts.append(f"{part}: {kinds.PARTS[part]}\n{aligned(rows)}")
    if results.missing:
        lacks = [f"  {part}: {reason}" for part, reason in results.missing.items()]
        parts.append("\n".join(["not measured", *lacks]))
    parts.append(targets(kinds.verdicts(results.samples, results.parts), "to reach"))
    return "\n\n".join(parts) + "\n"
