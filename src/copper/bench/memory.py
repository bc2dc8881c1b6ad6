"""Memory: what a QEMU has of its own, and what copying that of a guest costs at least."""

from __future__ import annotations

import mmap
import re
import time
from pathlib import Path

from copper.model.errors import CopperError, NoRoom

BLOCK_BYTES = 256 << 20  # larger than the caches of most processors
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
    """Copies memory between two blocks that are there already: less than any fork that copies would take.

    `close` gives them back.
    """

    def __init__(self) -> None:
        """Raises NoRoom."""
        try:
            self._source, self._target = mmap.mmap(-1, BLOCK_BYTES), mmap.mmap(-1, BLOCK_BYTES)
        except OSError as error:
            raise NoRoom(f"no memory to measure copying with: {error.strerror}") from error
        for at in range(0, BLOCK_BYTES, mmap.PAGESIZE):
            self._source[at] = self._target[at] = 1

    def close(self) -> None:
        self._source.close()
        self._target.close()

    def copy_ms(self, size: int) -> float:
        """Milliseconds that `size` bytes take."""
        with memoryview(self._source) as source, memoryview(self._target) as target:
            started = time.perf_counter()
            for at in range(0, size, BLOCK_BYTES):
                length = min(BLOCK_BYTES, size - at)
                target[:length] = source[:length]
            return (time.perf_counter() - started) * 1000
