"""Counts a text with 1, 2, 4 and 8 forked machines, checks the counts, and draws time against workers.

It makes a virtual cluster `mapreduce` for that, and deletes it. What the machines counted must be what coreutils count.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from copper.client import Client

HERE = Path(__file__).parent
STEPS = {"fork_s": "#61a5c2", "map_s": "#2a6f97", "reduce_s": "#e07a1f"}
COREUTILS = "tr -s '[:space:]' '\\n' | LC_ALL=C sort | uniq -c"


@contextlib.contextmanager
def master(client: Client, image: str) -> Iterator[str]:
    """A machine to fork, by its name; gone in the end, with its forks."""
    client.create("mapreduce", image)
    try:
        yield client.boot("mapreduce").name
    finally:
        client.kill("mapreduce")
        client.delete("mapreduce")


def measure(client: Client, vm: str, text: Path, turns: list[int]) -> list[dict[str, Any]]:
    """One line of the program's for each turn. Exits where it fails or counts other than coreutils."""
    for file in (text, HERE / "wordcount.py"):
        client.push(vm, file, "/root/")
    command = ["python3", "/root/wordcount.py", f"/root/{text.name}", *map(str, turns)]
    done = client.run(vm, command)
    if done.status != 0:
        sys.exit(done.stderr.decode())
    with text.open("rb") as words:
        wanted = subprocess.run(COREUTILS, shell=True, stdin=words, check=True, capture_output=True)
    for workers in set(turns):
        counts = text.with_name(f"counts.{workers}")
        client.pull(vm, f"/root/{text.name}.{workers}", counts)
        if counts.read_bytes() != wanted.stdout:
            sys.exit(f"{workers} workers counted otherwise than coreutils: see {counts}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def typical(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each number of workers the run in the middle, with the time of all its steps."""
    rows = [run | {"all_s": sum(run[step] for step in STEPS)} for run in runs]
    rows.sort(key=lambda row: (row["workers"], row["all_s"]))
    found = [[row for row in rows if row["workers"] == n] for n in {row["workers"] for row in rows}]
    return sorted((same[len(same) // 2] for same in found), key=lambda row: row["workers"])


def draw(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """A bar for each number of workers, made of the steps, and the best that its processors can do."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 5), constrained_layout=True)
    below = [0.0] * len(rows)
    for step, colour in STEPS.items():
        heights = [row[step] for row in rows]
        axis.bar(range(len(rows)), heights, 0.6, below, color=colour, label=step.removesuffix("_s"))
        below = [low + height for low, height in zip(below, heights, strict=True)]
    for at, row in enumerate(rows):
        axis.annotate(f"{row['all_s']:.1f} s", (at, below[at]), ha="center", va="bottom")
    real = os.cpu_count() or 1
    best = [rows[0]["all_s"] / min(row["workers"], real) for row in rows]
    label = f"the first time, on as many of {real} processors"
    axis.plot(range(len(rows)), best, "o--", color="#8a8a8a", linewidth=1, label=label)
    axis.set_xticks(range(len(rows)), [str(row["workers"]) for row in rows])
    axis.set(xlabel="workers", ylabel="seconds", title=title)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Writes text, counts, times (scaling.json) and picture (scaling.png) into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", help="an image with the guest API in Python")
    parser.add_argument("--size", type=int, default=28_000_000, help="of the text, bytes")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("mapreduce"))
    wanted = parser.parse_args()
    wanted.out.mkdir(parents=True, exist_ok=True)
    text = wanted.out / "text"
    with text.open("wb") as file:
        argv = [sys.executable, str(HERE / "text.py"), str(wanted.size)]
        subprocess.run(argv, stdout=file, check=True)
    load = os.getloadavg()[0]
    client = Client()
    with master(client, wanted.image) as vm:
        runs = measure(client, vm, text, wanted.workers * wanted.rounds)
    rows = typical(runs)
    print("workers   fork    map  reduce    all, seconds")
    for row in rows:
        print("{workers:7d} {fork_s:6.2f} {map_s:6.2f} {reduce_s:7.2f} {all_s:6.2f}".format(**row))
    said = f"{runs[0]['words']} words, {os.cpu_count()} processors"
    print(f"{said}, load {load:.1f} before; all counts are those of coreutils")
    (wanted.out / "scaling.json").write_text(json.dumps({"load": load, "runs": runs}, indent=1))
    draw(rows, f"words counted by forked machines: {said}", wanted.out / "scaling.png")


main()
