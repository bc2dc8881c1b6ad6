"""Memory: what a QEMU has of its own, and what copying that of a guest costs at least."""

from __future__ import annotations

import mmap
import re
import time
from pathlib import Path

from copper.model.errors import CopperError, NoRoom

SOURCE_BYTES = 256 << 20  # larger than any processor's cache, smaller than what is copied
MB = 1e6


def private_mb(pid: int) -> float:
    """Private_Dirty and Private_Clean of a process, in MB. Raises CopperError when it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError as error:
        raise CopperError(f"the memory of process {pid} cannot be read: {error}") from error
    fields = re.findall(r"^Private_(?:Dirty|Clean):\s+(\d+)", text, re.M)
    return sum(int(kib) for kib in fields) * 1024 / MB


class Floor:
    """Copies memory once, into memory that is new, as a fork that copies would. `close` gives it back."""

    def __init__(self) -> None:
        self._source = mmap.mmap(-1, SOURCE_BYTES)
        for at in range(0, SOURCE_BYTES, mmap.PAGESIZE):
            self._source[at] = 1

    def close(self) -> None:
        self._source.close()

    def copy_ms(self, size: int) -> float:
        """Milliseconds that `size` bytes take. Raises NoRoom when they do not fit."""
        if size + (256 << 20) > _available():
            raise NoRoom(f"no memory to copy {size >> 20} MiB into")
        with memoryview(self._source) as source, mmap.mmap(-1, size) as new:
            with memoryview(new) as target:
                started = time.perf_counter()
                for at in range(0, size, SOURCE_BYTES):
                    length = min(SOURCE_BYTES, size - at)
                    target[at : at + length] = source[:length]
                return (time.perf_counter() - started) * 1000


def _available() -> int:
    with Path("/proc/meminfo").open() as meminfo:
        return next(int(line.split()[1]) for line in meminfo if line.startswith("MemAvail")) << 10
