"""A trace: spans and instants on lines of their own, in a file that Perfetto opens, and nothing when nobody asks."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from copper.wire import trace
from copper.wire.steps import step
from copper.wire.trace import Event

WRITES = """
import sys
from pathlib import Path
from copper.wire import trace
trace.begin(Path(sys.argv[1]))
with trace.line("demo-1"), trace.span("thaw", unit="a"):
    with trace.span("lay", "memory"):
        pass
    trace.mark("asked")
"""


def names(events: list[Event]) -> list[tuple[str, str, str]]:
    return [(event.line, event.lane, event.name) for event in events]


def test_nothing_is_kept_when_nobody_asks() -> None:
    with trace.span("a") as first, trace.span("b"):
        trace.mark("c")
        trace.since(0, "d")
    assert first is None
    with trace.collected() as seen:
        pass
    assert seen == []


def test_a_span_is_of_the_line_of_its_task_and_of_what_that_started() -> None:
    async def thaw(name: str) -> None:
        with trace.line(name):
            await asyncio.create_task(lay())

    async def lay() -> None:
        with trace.span("lay"):
            await step("host.thawed")

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(thaw("demo-1"))
            group.create_task(thaw("demo-2"))
        with trace.span("none"):
            pass

    with trace.collected() as seen:
        asyncio.run(both())
    assert sorted(names(seen)) == [
        *(("demo-1", "marks", "host.thawed"), ("demo-1", "steps", "lay")),
        *(("demo-2", "marks", "host.thawed"), ("demo-2", "steps", "lay")),
        (trace.NODE, "steps", "none"),
    ]


def test_what_failed_says_so_and_is_raised() -> None:
    with trace.collected() as seen, pytest.raises(ValueError, match="no"):
        with trace.span("thaw", unit="a"):
            raise ValueError("no")
    assert seen[0].more == {"unit": "a", "error": "ValueError('no')"}
    assert seen[0].ns is not None


def test_a_process_writes_all_that_it_saw_until_its_end(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    subprocess.run([sys.executable, "-c", WRITES, str(path)], check=True)
    thaw, lay, asked = trace.read(path)
    assert names([thaw, lay, asked]) == [
        ("demo-1", "steps", "thaw"),
        ("demo-1", "memory", "lay"),
        ("demo-1", "marks", "asked"),
    ]
    assert (thaw.ns or 0) >= (lay.ns or 0) >= 0
    assert asked.ns is None and thaw.at <= lay.at <= asked.at <= thaw.at + (thaw.ns or 0)
    assert thaw.more == {"unit": "a"}


def test_a_file_that_is_being_written_is_read_as_far_as_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    subprocess.run([sys.executable, "-c", WRITES, str(path)], check=True)
    whole = path.read_text()
    last = whole.rstrip().rindex("\n")
    path.write_text(whole[: last + 20])
    assert len(trace.read(path)) == 2


def test_a_complete_file_is_what_perfetto_reads(tmp_path: Path) -> None:
    events = [
        Event("demo-1", "steps", "thaw", 5_000, 2_000, {"unit": "a"}),
        Event("demo-1", "marks", "asked", 6_000, None, {}),
        Event("demo-2", "steps", "thaw", 7_000, 1_000, {}),
    ]
    trace.write(events, tmp_path / "trace.json")
    written = json.loads((tmp_path / "trace.json").read_text())
    spans = [record for record in written if record["ph"] == "X"]
    assert [(one["ts"], one["dur"], one["pid"]) for one in spans] == [(5.0, 2.0, 1), (7.0, 1.0, 2)]
    assert trace.read_whole(tmp_path / "trace.json") == events
    named = [one["args"]["name"] for one in written if one["name"] == "process_name"]
    assert named == ["demo-1", "demo-2"]
    assert [one["s"] for one in written if one["ph"] == "i"] == ["t"]
