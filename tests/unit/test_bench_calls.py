"""How the bench asks a shell in a guest, and learns when clones have taken their identity."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from copper.bench.calls import Shell, identities
from copper.client.streams import Stream
from copper.model.errors import CopperError


class Told(Stream):
    """A stream whose other end says what it was given to say."""

    def __init__(self, *messages: bytes | dict[str, Any]) -> None:
        self.sent = b""
        self._script = iter(messages)

    def send(self, data: bytes) -> bool:
        self.sent += data
        return True

    def receive(self, timeout_s: float | None = None) -> bytes | dict[str, Any]:
        return next(self._script)


def test_a_line_is_one_line_however_it_arrives() -> None:
    stream = Told({"type": "started"}, b"\x01fi", b"\x02noise\n", b"\x01rst\nsec", b"\x01ond\n")
    shell = Shell("a-0", stream)
    assert shell.ask("one") == "first"
    assert shell.listen() == "second"
    assert stream.sent == b"\x00one\n"


def test_a_command_that_fails_is_an_error_in_its_own_words() -> None:
    shell = Shell("a-0", Told(b"\x02gc: no room\n", b"\x01failed: 16\n"))
    with pytest.raises(CopperError, match="in a-0: gc: no room"):
        shell.ask("gc clone 9")


def test_a_shell_that_ends_is_an_error() -> None:
    shell = Shell("a-0", Told({"type": "exit", "signal": 9}))
    with pytest.raises(CopperError, match="the shell in a-0 ended"):
        shell.ask("echo")


def record(folder: Path, name: str, ready_ms: float) -> None:
    """As a host agent writes it: whole or not at all."""
    fresh = folder / f".{name}.new"
    fresh.write_text(json.dumps({"ready_ms": ready_ms}))
    fresh.rename(folder / f"{name}.json")


def arrivals(folder: Path, names: list[str]) -> Iterator[str]:
    waiting: concurrent.futures.Future[float] = concurrent.futures.Future()
    with identities(folder, names) as found:
        record(folder, "a-0", 7)
        record(folder, "a-2", 0)
        record(folder, "a-1", 3)
        record(folder, "a-2", 5)
        for name, _ in found.until_all(waiting):
            yield name


def test_a_clone_counts_once_its_record_says_that_it_is_ready(tmp_path: Path) -> None:
    assert sorted(arrivals(tmp_path, ["a-1", "a-2"])) == ["a-1", "a-2"]


def test_a_call_that_fails_is_not_waited_for(tmp_path: Path) -> None:
    failed: concurrent.futures.Future[float] = concurrent.futures.Future()
    failed.set_exception(CopperError("no room"))
    with identities(tmp_path, ["a-1"]) as found:
        with pytest.raises(CopperError, match="no room"):
            list(found.until_all(failed))
