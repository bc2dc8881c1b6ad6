"""Python's garbage collector in a process that keeps a hundred thousand records: it looks only at what is new.

What has outlived a whole collection is put aside; once an hour all of it is looked at again.
"""

from __future__ import annotations

import gc
import time

WHOLE_S = 3600.0
_whole_at = 0.0


def look_at_what_is_new() -> None:
    """From now on, for this process. A whole collection of 100,000 VMs' records stops everything for over a second."""
    global _whole_at
    _whole_at = time.monotonic()
    gc.set_threshold(10_000, 20, 20)
    if _collected not in gc.callbacks:
        gc.callbacks.append(_collected)


def _collected(phase: str, info: dict[str, int]) -> None:
    global _whole_at
    if info["generation"] != 2:
        return
    if phase == "stop":
        gc.freeze()
    elif time.monotonic() - _whole_at > WHOLE_S:
        _whole_at = time.monotonic()
        gc.unfreeze()
