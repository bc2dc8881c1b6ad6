"""The results as a picture: what a fork costs by size, beside its peers, by depth, and in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from copper.bench import kinds
from copper.bench.results import Results
from copper.bench.stats import Guest, Load, number

IDLE, BUSY, PEER, FLOOR = "#2a6f97", "#e07a1f", "#8a8a8a", "#c9c9c9"
LIMIT: dict[str, Any] = {"color": "#b00020", "linestyle": "--", "linewidth": 1}


def draw(results: Results, path: Path) -> None:
    """Writes a PNG. Raises ImportError where there is no matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(18, 11), constrained_layout=True)
    _times(axes[0][0], results)
    _pauses(axes[0][1], results)
    _generations(axes[1][0], results)
    _memory(axes[1][1], results)
    machine = results.machine
    figure.suptitle(
        f"copper bench fork: {results.rounds} rounds, QEMU {machine['qemu']}"
        f" ({machine['accelerator']}), {machine['processors']} processors; bars: median, whiskers: p95",
        fontsize=12,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bars(
    axis: Any,
    results: Results,
    groups: Sequence[tuple[Guest, str]],
    rows: Sequence[tuple[str, Load, str, str]],
    *,
    log: bool = False,
) -> None:
    """Groups of bars, a group for each guest, a bar for each row: (label, load, kind, colour)."""
    width = 0.8 / len(rows)
    if log:
        axis.set_yscale("log")
    for index, (label, load, kind, colour) in enumerate(rows):
        for at, (guest, _) in enumerate(groups):
            summary = results.samples.get(guest, load, kind)
            if summary is None:
                continue
            x = at + (index - (len(rows) - 1) / 2) * width
            axis.bar(x, summary.p50, width * 0.92, color=colour, label=label)
            whisker = [[0], [max(0.0, summary.p95 - summary.p50)]]
            axis.errorbar(x, summary.p50, yerr=whisker, color="black", linewidth=0.8, capsize=2)
            axis.annotate(
                number(summary.p50),
                (x, max(summary.p95, summary.p50)),
                ha="center",
                va="bottom",
                rotation=90 if len(rows) * len(groups) > 12 else 0,
                fontsize=7,
                xytext=(0, 3),
                textcoords="offset points",
            )
    axis.set_xticks(range(len(groups)), [label for _, label in groups])
    axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axis.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if once:
        low, high = axis.get_ylim()
        room = 6 if log else 1.25  # above the bars
        axis.set_ylim(10 if log else low, high * room)
        axis.legend(
            once.values(), once.keys(), fontsize=8, frameon=False, loc="upper left", ncols=4
        )


def _groups(results: Results) -> list[tuple[Guest, str]]:
    return [(guest, guest.label) for guest in results.samples.guests]


def _times(axis: Any, results: Results) -> None:
    on_request: list[tuple[str, Load, str, str]] = [
        (f"{kinds.CLONES} times qemu -loadvm", "-", kinds.LOADVM_MANY, "#b5b5b5"),
        ("virsh restore", "-", kinds.VIRSH_RESTORE, "#6d6875"),
        ("criu restore, a process", "-", kinds.CRIU_RESTORE, "#b5838d"),
    ]
    _bars(
        axis,
        results,
        _groups(results),
        [
            ("first answer of a clone, idle", "idle", kinds.CLONE_ANSWER, IDLE),
            ("busy", "busy", kinds.CLONE_ANSWER, BUSY),
            (f"{kinds.CLONES} clones answered, idle", "idle", kinds.CLONES_ANSWER, "#61a5c2"),
            ("boot from the template", "idle", kinds.BOOT, "#52b788"),
            ("qemu -loadvm", "-", kinds.LOADVM, PEER),
            ("cold boot", "-", kinds.COLD, "#4a4a4a"),
            *(row for row in on_request if results.was_met(row[2])),
            ("copy all memory", "-", kinds.COPY_ALL, FLOOR),
        ],
        log=True,
    )
    axis.axhline(150, **LIMIT)
    axis.set_title("to a guest that answers, ms (log); line: 150 ms")


def _pauses(axis: Any, results: Results) -> None:
    _bars(
        axis,
        results,
        _groups(results),
        [
            ("pause in gc clone 1, idle", "idle", kinds.PAUSE, IDLE),
            ("busy", "busy", kinds.PAUSE, BUSY),
            ("pause of a freeze alone, idle", "idle", kinds.FREEZE_PAUSE, "#61a5c2"),
        ],
    )
    axis.axhline(20, **LIMIT)
    axis.set_title("the master's pause, ms; line: 20 ms")


def _generations(axis: Any, results: Results) -> None:
    numbers = range(1, kinds.DEEPEST + 1)
    for guest in results.samples.guests:
        for what, colour in (("first answer", IDLE), ("thaw", "#61a5c2"), ("pause", "#013a63")):
            found = [
                (one, results.samples.get(guest, "idle", kinds.of_generation(one, what)))
                for one in numbers
            ]
            points = [(one, summary) for one, summary in found if summary is not None]
            if not points:
                continue
            axis.errorbar(
                [one for one, _ in points],
                [summary.p50 for _, summary in points],
                yerr=[
                    [0.0] * len(points),
                    [max(0.0, summary.p95 - summary.p50) for _, summary in points],
                ],
                color=colour,
                marker="o",
                capsize=3,
                label=f"{guest.label}, {what}",
            )
    axis.set_ylim(bottom=0)
    axis.set_xticks(list(numbers))
    axis.set_xlabel("generation")
    axis.spines[["top", "right"]].set_visible(False)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, frameon=False)
    axis.set_title("a fork of a fork of a fork, ms")


def _memory(axis: Any, results: Results) -> None:
    _bars(
        axis,
        results,
        _groups(results),
        [
            ("own memory of an idle clone", "idle", kinds.OWN_IDLE, IDLE),
            ("busy", "busy", kinds.OWN_IDLE, BUSY),
            ("after it worked on 16 MiB", "idle", kinds.OWN_WORKED, "#61a5c2"),
            ("stored by an idle generation", "idle", kinds.LAYER_IDLE, "#52b788"),
        ],
    )
    axis.axhline(25, **LIMIT)
    axis.set_title("memory, MB; line: 25 MB")
