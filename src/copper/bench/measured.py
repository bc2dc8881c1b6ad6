"""What the results of a bench with kinds have in common: where and when it ran, its samples, and that they are written.

However it ends: what was measured until then is kept and shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from copper.bench.machine import load_average
from copper.bench.progress import Progress
from copper.bench.targets import Verdict


@dataclasses.dataclass(kw_only=True)
class Measured:
    """A run: where it was, and all samples by kind."""

    machine: dict[str, object]
    samples: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)  # why, by what was measured
    started: float = dataclasses.field(default_factory=time.time)
    load_before: list[float] = dataclasses.field(default_factory=load_average)
    load_after: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 0
    ended: str = ""  # why it ended before its end

    def add(self, kind: str, *values: float) -> None:
        self.samples.setdefault(kind, []).extend(values)

    def end(self) -> None:
        """The run is over."""
        self.seconds, self.load_after = time.time() - self.started, load_average()

    @property
    def verdicts(self) -> list[Verdict]:
        """The figures to reach."""
        raise NotImplementedError

    def as_json(self) -> dict[str, Any]:
        """All that is written down."""
        raise NotImplementedError

    def whole(self) -> dict[str, Any]:
        """The members that are written as they are."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("samples", "missing")
        }

    def targets(self) -> list[dict[str, Any]]:
        """The figures to reach, as they are written."""
        return [
            {**dataclasses.asdict(verdict), "reached": verdict.reached} for verdict in self.verdicts
        ]

    def write(self, path: Path) -> None:
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(self.as_json(), indent=1) + "\n")
        fresh.rename(path)


R = TypeVar("R", bound=Measured)


@contextlib.contextmanager
def written_at_end(
    results: R, path: Path, report: Callable[[R], str], progress: Progress
) -> Iterator[None]:
    """Measures in this block; then all that there is is written to `path` and printed."""
    try:
        yield
    except KeyboardInterrupt:
        results.ended = "it was interrupted"
        raise
    finally:
        results.end()
        if results.samples or results.missing:
            results.write(path)
            print(report(results), flush=True)
            progress.say(f"written: {path}")
