"""Python's garbage collector in a process that keeps a hundred thousand records: it looks only at what is new.

What has outlived a whole collection is put aside. All of it is looked at again once an hour, and as soon as half as
much again lies there as the last time: VMs that ended leave cycles behind, of tasks and their errors.
"""

from __future__ import annotations

import gc
import time

WHOLE_S, LEAST_S = 3600.0, 60.0
SOME = 20_000  # objects: less is not worth a look
_whole_at = 0.0
_aside = 0  # objects, after all of them were looked at


def look_at_what_is_new() -> None:
    """From now on, for this process. A whole collection of 100,000 VMs' records stops everything for over a second."""
    global _whole_at
    _whole_at = time.monotonic()
    gc.set_threshold(10_000, 5, 4)  # 200,000 new objects are looked at in 50 ms
    if _collected not in gc.callbacks:
        gc.callbacks.append(_collected)


def _collected(phase: str, info: dict[str, int]) -> None:
    global _whole_at, _aside
    if info["generation"] != 2:
        return
    if phase == "stop":
        whole = gc.get_freeze_count() == 0
        gc.freeze()
        if whole:
            _aside = gc.get_freeze_count()
    elif _is_due(time.monotonic() - _whole_at):
        _whole_at = time.monotonic()
        gc.unfreeze()


def _is_due(since_s: float) -> bool:
    grew = gc.get_freeze_count() > _aside * 3 // 2 + SOME
    return since_s > WHOLE_S or (since_s > LEAST_S and grew)
