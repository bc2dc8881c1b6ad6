"""Progress of long commands: a line a step, with its time, as scripts/setup.sh prints them."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator

WIDTH = 46


def ended_as_interrupted() -> None:
    """From now on a SIGTERM is taken as Ctrl-C is: what was begun is undone, and no machine left."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


class Steps:
    """Says on standard error what begins, and how many seconds it took."""

    def __init__(self) -> None:
        self._open = ""  # the name that the line under way begins with

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One step. Its line stays without a time when it fails."""
        began = time.monotonic()
        self._end_line()
        self._begin_line(name)
        try:
            yield
        except BaseException:
            self._end_line()
            raise
        if self._open != name:  # steps within it have had lines of their own
            self._end_line()
            self._begin_line(name)
        self._open = ""
        print(f"{time.monotonic() - began:6.1f} s", file=sys.stderr, flush=True)

    def _begin_line(self, name: str) -> None:
        self._open = name
        print(f"  {name:{WIDTH}} ", end="", file=sys.stderr, flush=True)

    def _end_line(self) -> None:
        if self._open:
            print(file=sys.stderr, flush=True)
        self._open = ""
