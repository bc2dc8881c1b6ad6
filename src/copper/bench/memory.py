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
from copper.vmm.layers import layer_of

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
        pages = sum(pages_of(pid).own.values())
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


GUEST, CODE, QEMU = "guest", "code", "qemu"  # what an anonymous page is for
_FILE, _SWAPPED, _PRESENT, _EXCLUSIVE = 1 << 61, 1 << 62, 1 << 63, 1 << 56
_ENTRIES = 1 << 16  # that are read at a time


@dataclasses.dataclass(frozen=True)
class Pages:
    """Anonymous pages of a process by what they are for: its own, and those that siblings map as well."""

    own: dict[str, int]
    shared: dict[str, int]


@dataclasses.dataclass(frozen=True)
class _Mapping:
    begin: int  # pages
    end: int
    rights: str
    path: str


def pages_of(pid: int, memory_bytes: int = 0) -> Pages:
    """What the page map of a QEMU with so much guest memory says (linux: admin-guide/mm/pagemap). Raises OSError.

    Swapped-out pages count as own. Translated code is what is anonymous and can be executed.
    """
    mappings = _mappings(Path(f"/proc/{pid}/maps").read_text())
    begin, end = _guest(mappings, memory_bytes // mmap.PAGESIZE)
    own, shared = dict.fromkeys((GUEST, CODE, QEMU), 0), dict.fromkeys((GUEST, CODE, QEMU), 0)
    with Path(f"/proc/{pid}/pagemap").open("rb", 0) as map:
        for one in mappings:
            what = QEMU
            if begin <= one.begin < end:
                what = GUEST
            elif "x" in one.rights and not one.path:
                what = CODE
            for at in range(one.begin, one.end, _ENTRIES):
                raw = os.pread(map.fileno(), 8 * min(_ENTRIES, one.end - at), at * 8)
                for entry in filter(None, array.array("Q", raw)):
                    if entry & _SWAPPED or entry & (_PRESENT | _FILE) == _PRESENT:
                        alone = entry & (_EXCLUSIVE | _SWAPPED)
                        counts = own if alone else shared
                        counts[what] += 1
    return Pages(own, shared)


def _mappings(text: str) -> list[_Mapping]:
    found = []
    for line in text.splitlines():
        where, rights, _, _, _, *path = line.split(maxsplit=5)
        begin, end = (int(part, 16) // mmap.PAGESIZE for part in where.split("-"))
        if begin * mmap.PAGESIZE < 1 << 63:  # what is above is the kernel's own
            found.append(_Mapping(begin, end, rights, "".join(path)))
    return found


def _guest(mappings: list[_Mapping], most: int) -> tuple[int, int]:
    """Where guest memory is: layers, and what touches them on both sides, `most` pages at most."""
    layers = [at for at, one in enumerate(mappings) if layer_of(one.path)]
    if not layers:
        return 0, 0
    first, last = layers[0], layers[-1]
    while first and mappings[first - 1].end == mappings[first].begin:
        if mappings[last].end - mappings[first - 1].begin > most or mappings[first - 1].path:
            break
        first -= 1
    while last + 1 < len(mappings) and mappings[last + 1].begin == mappings[last].end:
        if mappings[last + 1].end - mappings[first].begin > most or mappings[last + 1].path:
            break
        last += 1
    return mappings[first].begin, mappings[last].end


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
