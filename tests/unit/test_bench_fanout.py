"""What the fan-out's bench makes of a trace, and how it tells memory that is shared from what is a process's own."""

from __future__ import annotations

import array
import mmap
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from copper.bench import fanout_kinds as kinds
from copper.bench import timeline
from copper.bench.fan import Fanned
from copper.bench.fanout import main
from copper.bench.memory import memory_of
from copper.bench.series import Results, report
from copper.bench.timeline import Fork
from copper.model.errors import BadInput, CopperError
from copper.wire.trace import Event

MS = 1_000_000
MAP_MIB = 32
# maps memory that is written, forks, and lets both wait for the end of their input
FORKS = f"""
import mmap, os, sys
held = mmap.mmap(-1, {MAP_MIB} << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(held), mmap.PAGESIZE):
    held[at] = 1
child = os.fork()
if child:
    print(child, flush=True)
sys.stdin.read()
"""
MACHINE: dict[str, object] = {
    "qemu": "7.2.22",
    "accelerator": "tcg",
    "processors": 2,
    "processor": "a processor",
    "kernel": "6.1",
}


def a_fork() -> Fork:
    """Two clones of demo-0, called at 1 s; the first answers after 100 ms, the second after 150."""

    def span(line: str, name: str, at: float, ms: float, lane: str = "steps") -> Event:
        return Event(line, lane, name, round(1000 * MS + at * MS), round(ms * MS), {})

    def clone(line: str, turn: float, at: float) -> list[Event]:
        return [
            Event(line, "marks", "host.thaw-began", round(1010 * MS), None, {}),
            span(line, "tap", at, 10),
            span(line, "fork", at + 10, 30),
            span(line, "lay", at + 11, 2, "memory"),
            span(line, "identity", at + 42, 20),
            Event(line, "marks", "hooks", round((1000 + at + 50) * MS), None, {}),
            span(line, "link", at + 62, 3),
        ]

    events = [
        span("demo-0", "freeze", 2, 8),
        span("QEMU abc", "start", 0, 30),
        *clone("demo-1", 10, 20),
        *clone("demo-2", 10, 60),
    ]
    seen = Fanned(["demo-1", "demo-2"], 1.0, 1.15, 120, [90, 130], [100, 150])
    return Fork(seen, events)


def test_the_steps_of_a_clone_leave_no_time_out_that_it_waited() -> None:
    found = timeline.steps(a_fork(), "demo-1")
    began = 1000 * MS
    assert [(one.name, (one.at - began) / MS, (one.ns or 0) / MS) for one in found] == [
        ("turn", 10, 10),
        ("tap", 20, 10),
        ("fork", 30, 30),
        ("identity", 62, 20),
        ("hooks", 70, 12),
        ("link", 82, 3),
        ("answer", 85, 15),
    ]


def test_the_table_sums_the_steps_of_all_clones_and_what_they_ask_for() -> None:
    lines = [re.split(r" {2,}", line) for line in timeline.table(a_fork()).splitlines()]
    rows = {name: figures for name, *figures in lines}
    assert rows["tap"] == ["2", "10.0", "10.0", "20.0"]
    assert rows["memory: lay"] == ["2", "2.00", "2.00", "4.00"]
    assert rows["demo-0: freeze"] == ["1", "8.00", "8.00", "8.00"]
    assert rows["start"] == ["1", "30.0", "30.0", "30.0"]


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    timeline.draw(a_fork(), tmp_path / "fanout.png", MACHINE)
    assert (tmp_path / "fanout.png").read_bytes().startswith(b"\x89PNG")


def test_pages_that_a_forked_process_shares_are_not_its_own_until_it_is_alone() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None and parent.stdin is not None
        child = int(parent.stdout.readline())
        both = [memory_of(pid) for pid in (parent.pid, child)]
        assert all(one.anon > MAP_MIB for one in both)
        assert all(one.own < MAP_MIB / 2 for one in both)
        assert all(MAP_MIB / 2 < one.share < one.anon for one in both)
        gone = os.pidfd_open(child)
        parent.stdin.close()
        os.waitid(os.P_PIDFD, parent_fd := os.pidfd_open(parent.pid), os.WEXITED | os.WNOWAIT)
        os.close(parent_fd)
        os.close(gone)
    with pytest.raises(CopperError, match=f"process {parent.pid} cannot be read"):
        memory_of(parent.pid)


def test_what_a_process_wrote_is_its_own() -> None:
    before = memory_of(os.getpid())
    held = mmap.mmap(-1, MAP_MIB << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held[:] = array.array("B", [1]) * len(held)
    after = memory_of(os.getpid())
    held.close()
    assert MAP_MIB * 0.9 < after.own - before.own < MAP_MIB * 1.3
    assert after.tables > before.tables


def test_each_limit_is_held_by_the_figure_that_the_issue_names() -> None:
    rows = kinds.Rows()
    samples = {kind.name: [1.0] for kind in rows.kinds}
    results = Results(bench="fanout", asked={}, kinds=rows.kinds, goals=rows.goals, machine=MACHINE)
    assert {verdict.word for verdict in results.verdicts} == {"not measured"}
    results.samples = samples
    assert all(verdict.reached for verdict in results.verdicts)
    limits = {
        rows.last(60, "idle"): 3000,
        rows.standbys: 2000,
        kinds.IDENTITY: 60,
        rows.mesh(16): 1500,
        rows.mesh(60): 5000,
        kinds.OWN: 15,
        rows.pause(60, "idle"): 10,
    }
    for kind, limit in limits.items():
        results.samples = {**samples, kind: [limit + 0.1]}
        (late,) = [one for one in results.verdicts if not one.reached]
        assert late.limit == limit
    assert "not reached" in report(results)


def test_every_kind_says_what_it_measures() -> None:
    found = kinds.Rows().kinds
    assert len({kind.name for kind in found}) == len(found)
    assert all(kind.means for kind in found)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--rounds 0"):
        main(rounds=0, out=tmp_path)
