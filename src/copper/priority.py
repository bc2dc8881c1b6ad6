"""Who gets the processor first: Copper's own processes, before hundreds of VMs that all want it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")


def come_first(nice: int) -> None:
    """Gives this process that niceness, as far as it may.

    Where the kernel shares processors out among sessions (autogroup), niceness counts within a session only; one that
    is this process's own gets it as a whole.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            _AUTOGROUP.write_text(str(nice))
