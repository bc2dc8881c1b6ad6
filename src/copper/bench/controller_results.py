"""What one run of `copper bench controller` found, as it is printed and written down: bench-controller.json.

format, bench, started (seconds since 1970), seconds, parts, ended
options       what was asked for: seconds, rounds, clients, per_second, hosts, clusters, each, vms
machine       copper.bench.machine.facts, and the versions of what a request goes through
load_before, load_after   the machine's load averages
notes         what a reader must know of this run
definitions   what each kind measures, from where to where
series        part, kind, unit, n, p50, p95, p99, worst, samples
missing       part, reason
targets       what, figure, unit, limit, at_least, reached (true, false or null), note
"""

from __future__ import annotations

import dataclasses
from typing import Any

from copper.bench import controller_kinds as kinds
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
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def verdicts(self) -> list[Verdict]:
        return kinds.verdicts(self.samples, self.parts)

    def as_json(self) -> dict[str, Any]:
        """The members are listed above; what is written here is not changed without a new format."""
        summaries = kinds.summaries(self.samples)
        return {
            "format": FORMAT,
            "bench": "controller",
            **self.whole(),
            "definitions": {kind.name: kind.means for kind in kinds.KINDS},
            "series": [
                {
                    "part": kind.part,
                    "kind": kind.name,
                    "unit": kind.unit,
                    **{
                        name: getattr(summaries[kind.name], name)
                        for name in ("n", "p50", "p95", "p99", "worst")
                    },
                    "samples": self.samples[kind.name],
                }
                for kind in kinds.KINDS
                if kind.name in summaries
            ],
            "missing": [{"part": part, "reason": reason} for part, reason in self.missing.items()],
            "targets": self.targets(),
        }


def report(results: Results) -> str:
    """Everything that a person reads of a run."""
    parts = [_head(results)]
    parts += [_table(results, part) for part in results.parts if _measured(results, part)]
    if results.missing:
        lacks = [f"  {part}: {reason}" for part, reason in results.missing.items()]
        parts.append("\n".join(["not measured", *lacks]))
    parts.append(targets(results.verdicts, "to reach"))
    return "\n\n".join(parts) + "\n"


def _head(results: Results) -> str:
    machine = results.machine
    versions = ("copper", "python", "sqlite", "fastapi", "uvicorn", "pydantic")
    title = f"copper bench controller: {', '.join(results.parts)} in {results.seconds / 60:.0f} min"
    processor = f"{machine['processors']} processors ({machine['processor']})"
    memory = f"{machine['memory_mib']} MiB, Linux {machine['kernel']}"
    before, after = (
        " ".join(f"{value:.2f}" for value in values)
        for values in (results.load_before, results.load_after)
    )
    lines = [
        f"{title}; p50, p95, p99 and worst of n",
        "  " + ", ".join(f"{name} {machine[name]}" for name in versions),
        f"  {processor}, {memory}, state on {machine['state_on']}",
        f"  load average before {before}, after {after}",
        *(f"  {note}" for note in results.notes),
    ]
    if results.load_before and results.load_before[0] > OTHERS_LOAD * float(
        str(machine["processors"])
    ):
        lines.append("  other programs ran on this machine: the times are longer than its own")
    if results.ended:
        lines.append(f"  ended early: {results.ended}")
    return "\n".join(lines)


def _measured(results: Results, part: str) -> bool:
    return any(kind.part == part and results.samples.get(kind.name) for kind in kinds.KINDS)


def _table(results: Results, part: str) -> str:
    summaries = kinds.summaries(results.samples)
    rows = [[f"{part}: {kinds.PARTS[part]}", ""], ["", "", "n", "p50", "p95", "p99", "worst"]]
    for kind in kinds.KINDS:
        found = summaries.get(kind.name)
        if kind.part == part and found is not None:
            figures = (found.p50, found.p95, found.p99, found.worst)
            rows.append([f"  {kind.name}", kind.unit, str(found.n), *map(number, figures)])
    title, *body = rows
    return "\n".join([title[0], aligned(body)])
