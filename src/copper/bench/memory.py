"""Memory: what a QEMU has of its own, and what copying that of a guest costs at least.

A process that was forked shares anonymous pages with its siblings until one of them writes: the kernel counts them in
the RssAnon of each. Its own are those that nobody else maps.
"""

from __future__ import annotations

import array
import dataclasses
import mmap
import os
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


@dataclasses.dataclass(frozen=True)
class Memory:
    """What the kernel says of a process's memory, in MB."""

    anon: float  # RssAnon and VmSwap: what Copper calls own
    own: float  # of it, what no other process maps, and what is swapped out
    private: float  # Private_Clean and Private_Dirty: with programs' and files' pages that nobody else maps
    share: float  # Pss and SwapPss: each page divided among those that map it
    tables: float  # page tables


def memory_of(pid: int) -> Memory:
    """All of them at one instant. Raises CopperError when it has ended."""
    try:
        status = _fields(Path(f"/proc/{pid}/status").read_text())
        rollup = _fields(Path(f"/proc/{pid}/smaps_rollup").read_text())
        pages = own_pages(pid)
    except OSError as error:
        raise CopperError(f"the memory of process {pid} cannot be read: {error}") from error
    return Memory(
        anon=(status["RssAnon"] + status["VmSwap"]) / MB,
        own=pages * mmap.PAGESIZE / MB,
        private=(rollup["Private_Clean"] + rollup["Private_Dirty"]) / MB,
        share=(rollup["Pss"] + rollup["SwapPss"]) / MB,
        tables=status["VmPTE"] / MB,
    )


def _fields(text: str) -> dict[str, int]:
    """`Name: N kB` lines, in bytes."""
    found = re.findall(r"^(\w+):\s+(\d+) kB$", text, re.M)
    return {name: int(kib) * 1024 for name, kib in found}


_FILE, _SWAPPED, _PRESENT, _EXCLUSIVE = 1 << 61, 1 << 62, 1 << 63, 1 << 56
_ENTRIES = 1 << 16  # that are read at a time


def own_pages(pid: int) -> int:
    """Anonymous pages that this process alone maps, those that are swapped out included (pagemap). Raises OSError."""
    count = 0
    with (
        Path(f"/proc/{pid}/maps").open() as maps,
        Path(f"/proc/{pid}/pagemap").open("rb", 0) as map,
    ):
        for line in maps:
            begin, end = (int(part, 16) // mmap.PAGESIZE for part in line.split()[0].split("-"))
            if begin * mmap.PAGESIZE >= 1 << 63:
                continue  # the kernel's own
            for at in range(begin, end, _ENTRIES):
                raw = os.pread(map.fileno(), 8 * min(_ENTRIES, end - at), at * 8)
                for entry in array.array("Q", raw):
                    if entry & _SWAPPED or entry & (_PRESENT | _FILE | _EXCLUSIVE) == (
                        _PRESENT | _EXCLUSIVE
                    ):
                        count += 1
    return count


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
