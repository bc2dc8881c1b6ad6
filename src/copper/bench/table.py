"""The results as plain text: aligned columns, one row a kind, guests side by side."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from copper.bench import kinds
from copper.bench.results import Results
from copper.bench.stats import ABSENT, Guest, Load, Summary, Unit, number
from copper.bench.targets import Verdict

OTHERS_LOAD = 0.5  # of each processor, before the first round


def report(results: Results) -> str:
    """Everything that a person reads of a run."""
    parts = [_head(results)]
    for guest in results.samples.guests:
        parts.append(_guest_table(results, guest))
    parts += [
        part
        for part in (_generations(results), _ratios(results), _missing(results))
        if part is not None
    ]
    parts.append(targets(results.verdicts))
    return "\n\n".join(parts) + "\n"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in itertools.zip_longest(*rows, fillvalue="")]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=False)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _head(results: Results) -> str:
    machine = results.machine
    title = f"copper bench fork: {results.rounds} rounds in {results.seconds / 60:.0f} min"
    processor = f"{machine['processors']} processors ({machine['processor']})"
    memory = f"{machine['memory_mib']} MiB, Linux {machine['kernel']}"
    before, after = _averages(results.load_before), _averages(results.load_after)
    others = "".join(f", {name} {machine[name]}" for name in ("virsh", "criu") if name in machine)
    lines = [
        f"{title}, all kinds interleaved; p50, p95 and worst of n",
        f"  QEMU {machine['qemu']} ({machine['accelerator']}){others}, {processor}, {memory}",
        f"  load average before {before}, after {after}",
        f"  {kinds.BUSY}",
    ]
    if results.load_before and results.load_before[0] > OTHERS_LOAD * float(
        str(machine["processors"])
    ):
        lines.append("  other programs ran on this machine: the times are longer than its own")
    if results.ended:
        lines.append(f"  ended early: {results.ended}")
    return "\n".join(lines)


def _averages(values: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values) or ABSENT


def _guest_table(results: Results, guest: Guest) -> str:
    rows = [[guest.label, "", "idle", "", "", "", "busy", "", "", ""]]
    rows.append(["", "", *("n", "p50", "p95", "worst") * 2])
    notes = []
    for kind in kinds.KINDS:
        peer = kinds.is_peer(kind.name)
        idle = results.samples.get(guest, "-" if peer else "idle", kind.name)
        busy = results.samples.get(guest, "busy", kind.name)
        if idle is None and busy is None:
            if kind.name in kinds.PEERS or (peer and results.was_met(kind.name)):
                rows.append([kind.name, kind.unit, *_cells(None)])
            continue
        rows.append([kind.name, kind.unit, *_cells(idle), *_cells(busy)])
    for series in results.samples:
        if series.guest == guest and series.fewer:
            notes.append(f"  {series.kind}: {len(series.samples)} runs: {series.fewer}")
    return "\n".join([aligned(rows), *notes])


def _cells(summary: Summary | None) -> Iterator[str]:
    if summary is None:
        return iter([ABSENT] * 4)
    figures = (summary.p50, summary.p95, summary.worst)
    return iter([str(summary.n), *map(number, figures)])


def _generations(results: Results) -> str | None:
    numbers = range(1, kinds.DEEPEST + 1)
    rows = [["a chain of idle forks, generation", "", *map(str, numbers)]]
    for guest in results.samples.guests:
        for what in ("pause", "thaw", "first answer"):
            figures = [
                results.samples.p50(guest, "idle", kinds.of_generation(one, what))
                for one in numbers
            ]
            if any(figure is not None for figure in figures):
                unit: Unit = "ms"
                rows.append([f"{guest.label}, {what}, p50", unit, *map(number, figures)])
    return aligned(rows) if len(rows) > 1 else None


def _ratios(results: Results) -> str | None:
    guests = results.samples.guests
    by_what: dict[str, dict[Guest, float | None]] = {}
    for ratio in results.ratios:
        by_what.setdefault(ratio.what, {})[ratio.guest] = ratio.ratio
    rows = [["ratios of medians", *(guest.label for guest in guests)]]
    rows += [[what, *(number(by[guest]) for guest in guests)] for what, by in by_what.items()]
    return aligned(rows) if guests else None


def _missing(results: Results) -> str | None:
    lines = [
        f"  {lack.guest.label}, {_load(lack.load)}{lack.kind}: {lack.times} times: {lack.reason}"
        for lack in results.samples.missing
    ]
    return "\n".join(["not measured", *lines]) if lines else None


def _load(load: Load) -> str:
    return "" if load == "-" else f"{load}, "


def targets(
    found: Sequence[Verdict], title: str = "to reach (idle guests, the worst of the sizes)"
) -> str:
    """What was to be reached."""
    rows = [[title, "figure", "limit", "", ""]]
    for verdict in found:
        limit = f"{'>=' if verdict.at_least else '<='} {verdict.limit:g} {verdict.unit}"
        figure = f"{number(verdict.figure)} {verdict.unit}" if verdict.figure is not None else "-"
        rows.append([verdict.what, figure, limit, verdict.word, verdict.note])
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        f"{what.ljust(widths[0])}  {figure.rjust(widths[1])}  {limit.rjust(widths[2])}"
        f"  {word.ljust(widths[3])}  {note}".rstrip()
        for what, figure, limit, word, note in rows
    )
