"""Progress of long commands: a line a step, with its time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from copper.cli.output import note


class Steps:
    """Says each step as it begins, and how long it took, on standard error."""

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        note(f"{name} …")
        yield
        note(f"{name}: {time.monotonic() - began:.1f} s")
