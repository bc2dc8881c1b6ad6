"""Whether a guest in the making is quiet is told from what it would do, not from what the host has time for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from copper.host.making import busy_share, turns_of, wants_a_processor


@contextmanager
def running(code: str) -> Iterator[int]:
    """A Python process that has begun what it does; its pid."""
    argv = [sys.executable, "-c", f"print(flush=True)\n{code}"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline()
            yield process.pid
        finally:
            process.kill()


def test_whoever_computes_wants_a_processor_however_many_others_do() -> None:
    busy = "while True: pass"
    with running(busy) as one, running(busy), running(busy), running(busy):
        assert wants_a_processor(one)
        ((ran, _),) = turns_of(one).values()
        while turns_of(one)[str(one)][0] <= ran:
            assert wants_a_processor(one)


@pytest.mark.timeout(60)
def test_whoever_waits_for_something_else_wants_none() -> None:
    with running("input()") as one:
        while wants_a_processor(one):
            pass  # it has not come to waiting yet


@pytest.mark.parametrize(
    ("ran_s", "waited_s", "share"),
    [
        (0.02, 0.0, 0.02),
        (0.9, 0.0, 0.9),
        (0.02, 0.5, 0.04),  # quiet, on a busy host
        (0.1, 0.85, 0.667),  # busy, on a busy host
        (0.1, 1.0, 1.0),
        (0.0, 1.2, 1.0),
    ],
)
def test_time_that_a_thread_was_kept_waiting_is_not_its_own(
    ran_s: float, waited_s: float, share: float
) -> None:
    before = {"1": (5.0, 9.0), "2": (1.0, 1.0)}
    after = {"1": (5.0 + ran_s, 9.0 + waited_s), "2": (1.0, 1.0)}
    assert busy_share(before, after, 1.0) == pytest.approx(share, abs=0.001)


def test_threads_come_and_go() -> None:
    assert busy_share({}, {"2": (0.9, 0.0)}, 1.0) == 0.9
    assert busy_share({"1": (0.0, 0.0)}, {}, 1.0) == 0.0
