"""One large fork on one time line, cut out of a Copper's trace: a file for Perfetto, a picture, a table of steps."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from copper.bench.fan import Fanned
from copper.bench.progress import Progress
from copper.bench.stats import number
from copper.bench.table import aligned
from copper.wire import trace
from copper.wire.trace import Event

# the steps of a clone in their order, as they are drawn: colours by step
STEPS = {
    "turn": "#e5e5e5",
    "tap": "#e07a1f",
    "standby": "#8a8a8a",
    "state": "#2a6f97",
    "fork": "#0077b6",
    "group": "#c08552",
    "disk": "#56cfe1",
    "cont": "#6a4c93",
    "identity": "#52b788",
    "hooks": "#b5c99a",
    "link": "#d62828",
    "answer": "#ffb703",
}
OTHERS = "#bcb8b1"  # steps that are no clone's


@dataclasses.dataclass(frozen=True)
class Fork:
    """A fork as it was seen from outside, and what its Copper did meanwhile."""

    seen: Fanned
    events: list[Event]

    def of(self, line: str) -> list[Event]:
        return [event for event in self.events if event.line == line]


def during(path: Path, began: float, ended: float) -> list[Event]:
    """What a trace has between two instants, in seconds of the monotonic clock. Raises OSError, ValueError."""
    first, last = began * 1e9, ended * 1e9
    return [
        event
        for event in trace.read(path)
        if event.at <= last and event.at + (event.ns or 0) >= first
    ]


def steps(fork: Fork, clone: str) -> list[Event]:
    """A clone's steps, those between the others filled in: its turn, hooks, the answer to the first ping."""
    events = fork.of(clone)
    spans = {event.name: event for event in events if event.ns is not None}
    marks = {event.name: event.at for event in events if event.ns is None}
    found = [spans[name] for name in STEPS if name in spans]

    def add(name: str, begin: int | None, end: int | None) -> None:
        if begin is not None and end is not None and end > begin:
            found.append(Event(clone, "steps", name, begin, end - begin, {}))

    tap, identity, link = (spans.get(name) for name in ("tap", "identity", "link"))
    add("turn", marks.get("host.thaw-began"), tap and tap.at)
    add("hooks", marks.get("hooks"), identity and identity.at + (identity.ns or 0))
    reached = fork.seen.reached_ms[fork.seen.clones.index(clone)]
    at = round(fork.seen.began * 1e9 + reached * 1e6)
    add("answer", link and link.at + (link.ns or 0), at)
    return sorted(found, key=lambda event: event.at)


def keep(fork: Fork, out: Path, machine: Mapping[str, object], progress: Progress) -> None:
    """Writes fanout.json, which Perfetto opens, and fanout.png; prints the steps."""
    extra = [
        event
        for clone in fork.seen.clones
        for event in steps(fork, clone)
        if event.name in ("turn", "answer")
    ]
    began = round(fork.seen.began * 1e9)
    took = round((fork.seen.ended - fork.seen.began) * 1e9)
    whole = Event("bench", "steps", f"gc clone {len(fork.seen.clones)}", began, took, {})
    events = [whole, *(event._replace(lane="waits") for event in extra), *fork.events]
    trace.write(sorted(events, key=lambda event: event.at), out / "fanout.json")
    print(table(fork), flush=True)
    try:
        draw(fork, out / "fanout.png", machine)
    except ImportError:
        progress.say("no picture: matplotlib is not installed")
    progress.say(f"written: {out / 'fanout.json'}, {out / 'fanout.png'}")


def table(fork: Fork) -> str:
    """Milliseconds of each step of one fork: of the steps of clones, and of what they ask QEMU for."""
    by_name: dict[str, list[float]] = {}
    clones = set(fork.seen.clones)
    for clone in fork.seen.clones:
        for event in steps(fork, clone):
            by_name.setdefault(event.name, []).append((event.ns or 0) / 1e6)
    asked: dict[str, list[float]] = {}
    other: dict[str, list[float]] = {}
    for event in fork.events:
        if event.ns is None or (event.line in clones and event.lane == "steps"):
            continue
        at = asked if event.line in clones else other
        name = f"{event.lane}: {event.name}" if event.line in clones else event.name
        if not event.line.startswith("QEMU"):
            name = name if event.line in clones else f"{event.line}: {event.name}"
        at.setdefault(name, []).append(event.ns / 1e6)
    rows = [["one fork, ms", "n", "p50", "worst", "sum"]]
    for part in ({name: by_name[name] for name in STEPS if name in by_name}, asked, other):
        rows += [
            [name, str(len(took)), *map(number, (statistics.median(took), max(took), sum(took)))]
            for name, took in part.items()
        ]
    return aligned(rows)


def draw(fork: Fork, path: Path, machine: Mapping[str, object]) -> None:
    """Writes a PNG. Raises ImportError where there is no matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    seen = fork.seen
    order = sorted(seen.clones, key=lambda clone: seen.reached_ms[seen.clones.index(clone)])
    above = [line for line in _lines(fork) if line not in set(order)]
    rows = {line: at for at, line in enumerate([*above, *order])}
    figure, axis = plt.subplots(figsize=(20, 3 + 0.19 * len(rows)), constrained_layout=True)
    for line in above:
        others = [event for event in fork.of(line) if event.ns is not None]
        for event in others:
            _bar(axis, seen, rows[line], event, OTHERS, 0.7, label=event.name)
    for clone in order:
        for event in steps(fork, clone):
            _bar(axis, seen, rows[clone], event, STEPS[event.name], 0.8)
        reached = seen.reached_ms[seen.clones.index(clone)]
        axis.plot([reached], [rows[clone]], "k|", markersize=6)
    axis.set_yticks(list(rows.values()), list(rows), fontsize=6)
    axis.set_ylim(len(rows) + 1.5, -1)
    axis.set_xlim(0, seen.last_ms * 1.02)
    axis.set_xlabel("ms since the call; a black line: the clone answered a ping")
    axis.spines[["top", "right"]].set_visible(False)
    handles = [Patch(color=colour) for colour in STEPS.values()]
    axis.legend(handles, list(STEPS), ncols=len(STEPS), fontsize=9, frameon=False, loc="lower left")
    axis.set_title(
        f"gc clone {len(order)}: the last one answered after {seen.last_ms:.0f} ms"
        f" (QEMU {machine['qemu']}, {machine['accelerator']}, {machine['processors']} processors)"
    )
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _lines(fork: Fork) -> list[str]:
    """In the order of their beginnings; QEMUs that start come last."""
    lines = dict.fromkeys(event.line for event in fork.events if event.ns is not None)
    return sorted(lines, key=lambda line: line.startswith("QEMU"))


def _bar(
    axis: Any, seen: Fanned, row: int, event: Event, colour: str, height: float, label: str = ""
) -> None:
    at = event.at / 1e6 - seen.began * 1e3
    took = (event.ns or 0) / 1e6
    axis.barh(row, took, left=at, height=height, color=colour, edgecolor="white", linewidth=0.2)
    if label and took > seen.last_ms / 40:
        axis.text(max(at, 0), row, f" {label}", fontsize=6, va="center")
