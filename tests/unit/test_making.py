"""Whether a guest in the making is quiet is told from what it would do, not from what the host has time for."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from copper.host.making import QUIET_SHARE, busy_share, turns_of


@contextmanager
def running(code: str) -> Iterator[int]:
    """A Python process that has begun what it does; its pid."""
    code = f"import time; print(flush=True)\n{code}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline()
            yield process.pid
        finally:
            process.kill()


def share_of(pid: int) -> float:
    before, since = turns_of(pid), time.monotonic()
    assert before
    time.sleep(1)
    after = turns_of(pid)
    return busy_share(before, after, time.monotonic() - since)


def test_whoever_computes_is_busy_however_many_others_do() -> None:
    busy = "while True: pass"
    with running(busy) as one, running(busy), running(busy), running(busy):
        assert share_of(one) > 0.5


def test_whoever_sleeps_is_quiet() -> None:
    with running("time.sleep(3600)") as one:
        assert share_of(one) < QUIET_SHARE


def test_time_that_a_thread_was_kept_waiting_is_not_its_own() -> None:
    starved = {"1": (5.0, 9.0)}, {"1": (5.1, 9.85)}
    assert busy_share(*starved, 1.0) > 0.6
    idle = {"1": (5.0, 9.0)}, {"1": (5.02, 9.5)}
    assert busy_share(*idle, 1.0) < 0.05
    assert busy_share({}, {"2": (0.9, 0.0)}, 1.0) == 0.9
    assert busy_share({"1": (0.0, 0.0)}, {"1": (0.1, 1.0)}, 1.0) == 1.0
    assert busy_share({"1": (0.0, 0.0)}, {}, 1.0) == 0.0
