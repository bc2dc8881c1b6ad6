"""Says what a run is doing and how long it will take: to standard error, one line that changes on a terminal."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator


class Progress:
    """Steps that are done once, then rounds."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._round = 0
        self._began = time.monotonic()
        self._terminal = sys.stderr.isatty()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One step of the preparation, with its time at the end."""
        started = time.monotonic()
        if self._terminal:
            self._over(f"{name} …")
        yield
        self.say(f"{name}: {time.monotonic() - started:.1f} s")

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._terminal:
            self._over("")
        print(line, file=sys.stderr, flush=True)

    def begin_rounds(self) -> None:
        self._began = time.monotonic()

    def begin_round(self, number: int) -> None:
        """Rounds are counted from 0."""
        self._round = number
        if not self._terminal:
            self.say(self._where())

    def doing(self, what: str) -> None:
        if self._terminal:
            self._over(f"{self._where()}: {what}")

    def _where(self) -> str:
        gone = time.monotonic() - self._began
        text = f"round {self._round + 1} of {self._rounds}"
        if self._round:
            left = gone / self._round * (self._rounds - self._round)
            text += f", {clock(gone)} gone, {clock(left)} left"
        return text

    def _over(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{text[:width].ljust(width)}\r", end="", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
