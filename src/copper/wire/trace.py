"""What is done when: spans and instants of one process on one time line, in a file that Perfetto opens.

    with trace.line("demo-3"):              # what follows in this task, and in what it starts, is done for demo-3
        with trace.span("thaw"): ...
        trace.mark("asked")

COPPER_TRACE names the file. It is Chrome's trace format, an array of events that nobody closes: `ts` and `dur` in
microseconds of the monotonic clock, which all processes of a host share; `pid` a number for each line, `tid` for each
of its lanes, with their names in `process_name` and `thread_name`. Spans of one lane lie within each other or one
after the other. Nobody asked: a span costs the question whether somebody did.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

WRITE_S = 0.25  # what was seen is written so often
NODE = "node"  # the line of what is done for no VM


class Event(NamedTuple):
    """One span, or an instant: `ns` is None. Times in nanoseconds of the monotonic clock."""

    line: str
    lane: str
    name: str
    at: int
    ns: int | None
    more: dict[str, Any]


_line: ContextVar[str] = ContextVar("line", default=NODE)
_seen: list[Event] | None = None  # None: nobody asked


class _Nothing:
    """The span of a process that nobody traces."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


class _Span:
    def __init__(self, name: str, lane: str, line: str, more: dict[str, Any]) -> None:
        self._name, self._lane, self._line, self._more = name, lane, line, more

    def __enter__(self) -> None:
        self._at = time.monotonic_ns()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if _seen is not None:
            more = self._more if error is None else {**self._more, "error": repr(error)[:200]}
            took = time.monotonic_ns() - self._at
            _seen.append(Event(self._line, self._lane, self._name, self._at, took, more))


_NOTHING = _Nothing()


def span(name: str, lane: str = "steps", *, line: str = "", **more: Any) -> _Nothing | _Span:
    """What is done in this block, for whom `line` says, or this task's line. `more` is shown with it."""
    if _seen is None:
        return _NOTHING
    return _Span(name, lane, line or _line.get(), more)


def since(at: int, name: str, lane: str = "steps", **more: Any) -> None:
    """A span from an instant of `time.monotonic_ns` until now."""
    if _seen is not None:
        _seen.append(Event(_line.get(), lane, name, at, time.monotonic_ns() - at, more))


def mark(name: str, lane: str = "marks", *, line: str = "", **more: Any) -> None:
    """An instant."""
    if _seen is not None:
        _seen.append(Event(line or _line.get(), lane, name, time.monotonic_ns(), None, more))


@contextlib.contextmanager
def line(name: str) -> Iterator[None]:
    """What this task does in this block, and what it starts there, is done for this VM."""
    token = _line.set(name)
    try:
        yield
    finally:
        _line.reset(token)


@contextlib.contextmanager
def collected() -> Iterator[list[Event]]:
    """All that is seen in this block, for who counts it. Not while a file is written."""
    global _seen
    before, _seen = _seen, []
    try:
        yield _seen
    finally:
        _seen = before


def begin(path: Path) -> None:
    """Writes all that is seen from now on, until the process ends. Raises OSError."""
    global _seen
    _seen = []
    file = path.open("w")
    file.write("[\n")
    writer = _Writer(file, _seen)
    writer.start()
    atexit.register(writer.end)


class _Writer(threading.Thread):
    """Beside what is traced, so that nobody waits for a file."""

    def __init__(self, file: Any, seen: list[Event]) -> None:
        super().__init__(daemon=True, name="copper-trace")
        self._file, self._seen = file, seen
        self._ending = threading.Event()
        self._numbers = Numbers()

    def run(self) -> None:
        while not self._ending.wait(WRITE_S):
            self._write()

    def end(self) -> None:
        self._ending.set()
        self.join()
        self._write()
        self._file.close()

    def _write(self) -> None:
        count = len(self._seen)
        events, self._seen[:count] = self._seen[:count], []
        for event in events:
            for record in self._numbers.records(event):
                self._file.write(json.dumps(record) + ",\n")
        self._file.flush()


class Numbers:
    """Perfetto's numbers of lines and lanes, and their names when they come first."""

    def __init__(self) -> None:
        self._lines: dict[str, int] = {}
        self._lanes: dict[tuple[str, str], int] = {}

    def records(self, event: Event) -> Iterator[dict[str, Any]]:
        """Chrome's records of one event."""
        if event.line not in self._lines:
            self._lines[event.line] = len(self._lines) + 1
            yield self._name("process_name", event.line, self._lines[event.line], 0)
        pid = self._lines[event.line]
        lane = (event.line, event.lane)
        if lane not in self._lanes:
            self._lanes[lane] = len(self._lanes) + 1
            yield self._name("thread_name", event.lane, pid, self._lanes[lane])
        record: dict[str, Any] = {
            "name": event.name,
            "pid": pid,
            "tid": self._lanes[lane],
            "ts": event.at / 1000,
        }
        if event.ns is None:
            yield {**record, "ph": "i", "s": "t", "args": event.more}
        else:
            yield {**record, "ph": "X", "dur": event.ns / 1000, "args": event.more}

    def _name(self, what: str, name: str, pid: int, tid: int) -> dict[str, Any]:
        return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}


def read(path: Path) -> list[Event]:
    """The events of a file that `begin` writes, as far as it is written. Raises OSError, ValueError."""
    lines = path.read_text().splitlines()[1:]
    return _events(json.loads(line[:-1]) for line in lines if line.endswith("},"))


def read_whole(path: Path) -> list[Event]:
    """The events of a file that `write` wrote. Raises OSError, ValueError."""
    return _events(json.loads(path.read_text()))


def _events(records: Iterable[dict[str, Any]]) -> list[Event]:
    lines: dict[int, str] = {}
    lanes: dict[int, str] = {}
    found = []
    for record in records:
        if record["name"] == "process_name":
            lines[record["pid"]] = record["args"]["name"]
        elif record["name"] == "thread_name":
            lanes[record["tid"]] = record["args"]["name"]
        else:
            ns = round(record["dur"] * 1000) if record["ph"] == "X" else None
            of = lines[record["pid"]], lanes[record["tid"]], record["name"]
            found.append(Event(*of, round(record["ts"] * 1000), ns, record["args"]))
    return sorted(found, key=lambda event: event.at)


def write(events: list[Event], path: Path) -> None:
    """A file of these, complete."""
    numbers = Numbers()
    records = [json.dumps(record) for event in events for record in numbers.records(event)]
    path.write_text("[\n" + ",\n".join(records) + "\n]\n")
