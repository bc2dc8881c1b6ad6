"""What one run found, as it is shown and written down: bench.json.

format, bench, started (seconds since 1970), seconds, runs, sizes, recipes, command
machine              copper.bench.machine.facts
load_before, _after  the machine's load averages
definitions          what each kind measures, busy guests, and from where to where
series               guest, recipe, memory_mib, load, kind, unit, n, p50, p95, worst, fewer, samples
ratios               guest, what, ratio (medians)
missing              guest, load, kind, times, reason
targets              what, figure, unit, limit, at_least, reached (true, false or null), note
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from copper.bench import kinds
from copper.bench.stats import Guest, Load, Samples
from copper.bench.targets import Verdict, verdicts

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Ratio:
    """One median over another of the same guest and run; None where one of them was not measured."""

    guest: Guest
    what: str
    ratio: float | None


@dataclasses.dataclass
class Results:
    """A run: what was asked for, where it was, and all samples."""

    runs: int
    sizes: list[int]
    recipes: list[str]
    machine: dict[str, object]
    started: float
    load_before: list[float]
    samples: Samples
    load_after: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 0
    rounds: int = 0  # that were finished
    ended: str = ""  # why it ended before its last round

    @property
    def verdicts(self) -> list[Verdict]:
        return verdicts(self.samples)

    @property
    def ratios(self) -> list[Ratio]:
        """How the peers and the floor compare to a fork of the idle guest."""
        answer: tuple[Load, str] = ("idle", kinds.CLONE_ANSWER)
        boot: tuple[Load, str] = ("idle", kinds.BOOT)
        wanted: list[tuple[str, tuple[Load, str], tuple[Load, str]]] = [
            ("cold boot / first answer", ("-", kinds.COLD), answer),
            ("-loadvm / first answer", ("-", kinds.LOADVM), answer),
            *self._ratios_on_request(),
            ("copying all memory / first answer", ("-", kinds.COPY_ALL), answer),
            ("copying used memory / first answer", ("-", kinds.COPY_USED), answer),
            ("copying used memory / pause", ("-", kinds.COPY_USED), ("idle", kinds.PAUSE)),
            ("cold boot / boot from the template", ("-", kinds.COLD), boot),
            ("8 clones / 1 clone, answers", ("idle", kinds.CLONES_ANSWER), answer),
            ("busy / idle, first answer", ("busy", kinds.CLONE_ANSWER), answer),
        ]
        return [
            Ratio(guest, what, self.samples.ratio(guest, above, below))
            for guest in self.samples.guests
            for what, above, below in wanted
        ]

    def _ratios_on_request(self) -> list[tuple[str, tuple[Load, str], tuple[Load, str]]]:
        """Of the peers that this run was asked for."""
        many = f"{kinds.CLONES} times -loadvm / {kinds.CLONES} clones, answers"
        answer: tuple[Load, str] = ("idle", kinds.CLONE_ANSWER)
        pause: tuple[Load, str] = ("idle", kinds.PAUSE)
        wanted: list[tuple[str, tuple[Load, str], tuple[Load, str]]] = [
            (many, ("-", kinds.LOADVM_MANY), ("idle", kinds.CLONES_ANSWER)),
            ("virsh restore / first answer", ("-", kinds.VIRSH_RESTORE), answer),
            ("virsh save / pause", ("-", kinds.VIRSH_SAVE), pause),
            ("criu restore / first answer", ("-", kinds.CRIU_RESTORE), answer),
            ("criu dump / pause", ("-", kinds.CRIU_DUMP), pause),
        ]
        return [(what, above, below) for what, above, below in wanted if self.was_met(above[1])]

    def was_met(self, kind: str) -> bool:
        """It was measured, or was to be."""
        return any(one.kind == kind for one in [*self.samples, *self.samples.missing])

    def as_json(self) -> dict[str, Any]:
        """The members are listed above; what is written here is not changed without a new format."""
        return {
            "format": FORMAT,
            "bench": "fork",
            "started": self.started,
            "seconds": self.seconds,
            "runs": self.runs,
            "rounds": self.rounds,
            "ended": self.ended,
            "sizes": self.sizes,
            "recipes": self.recipes,
            "machine": self.machine,
            "load_before": self.load_before,
            "load_after": self.load_after,
            "definitions": {
                "busy": kinds.BUSY,
                **{kind.name: kind.means for kind in [*kinds.KINDS, *kinds.generations()]},
            },
            "series": [
                {
                    **_guest(series.guest),
                    "load": series.load,
                    "kind": series.kind,
                    "unit": series.unit,
                    **dataclasses.asdict(series.summary),
                    "fewer": series.fewer,
                    "samples": series.samples,
                }
                for series in self.samples
            ],
            "ratios": [
                {**_guest(ratio.guest), "what": ratio.what, "ratio": ratio.ratio}
                for ratio in self.ratios
            ],
            "missing": [
                {
                    **_guest(lack.guest),
                    "load": lack.load,
                    "kind": lack.kind,
                    "times": lack.times,
                    "reason": lack.reason,
                }
                for lack in self.samples.missing
            ],
            "targets": [
                {**dataclasses.asdict(verdict), "reached": verdict.reached}
                for verdict in self.verdicts
            ],
        }

    def write(self, path: Path) -> None:
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(self.as_json(), indent=1) + "\n")
        fresh.rename(path)


def _guest(guest: Guest) -> dict[str, object]:
    return {"guest": guest.label, "recipe": guest.recipe, "memory_mib": guest.memory_mib}
