"""Layer files: what native/layers.h writes, read, checked, joined and kept on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import struct
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from copper.model.errors import Damaged, NoRoom
from copper.vmm.layers import MOST_EXTENTS, PAGE, layer_of, new_layer, seal

MAGIC = b"COPPERL1"
VERSION = 1
_HEADER = struct.Struct("<8sIIQQQQ")
_EXTENT = struct.Struct("<QQQ")
_CHUNK = 1 << 22

Range = tuple[int, int]  # offset in guest memory, bytes


@dataclasses.dataclass(frozen=True)
class Index:
    """What a layer holds: its header and its extents as (offset in memory, bytes, offset in file)."""

    ram_bytes: int
    pages: int
    extents: tuple[tuple[int, int, int], ...]
    records_sha256: str  # of header and extents

    @property
    def ranges(self) -> list[Range]:
        return [(at, length) for at, length, _ in self.extents]


def held_bytes(pids: Iterable[int | str]) -> int:
    """Memory of all layers that these processes have open ("self": this one), each counted once."""
    held: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):  # it was closed
                    if layer_of(str(entry.readlink())):
                        stat = entry.stat()
                        held[stat.st_ino] = stat.st_blocks * 512
    return sum(held.values())


def read_index(fd: int, what: str = "layer") -> Index:
    """Reads and checks a layer's header and extents. Raises Damaged that says what is wrong."""
    size = os.fstat(fd).st_size
    raw = os.pread(fd, _HEADER.size, 0)
    if len(raw) < _HEADER.size:
        raise Damaged(f"{what} is cut short: {size} bytes")
    magic, version, page_size, ram_bytes, count, index_offset, pages = _HEADER.unpack(raw)
    if magic != MAGIC:
        raise Damaged(f"{what} is not a memory layer")
    if version != VERSION:
        raise Damaged(f"{what} has format {version}", advice=f"this Copper reads {VERSION}")
    if page_size != PAGE or index_offset + count * _EXTENT.size > size:
        raise Damaged(f"{what} is cut short: {size} bytes")
    records = os.pread(fd, count * _EXTENT.size, index_offset)
    extents = tuple(_EXTENT.iter_unpack(records))
    for at, length, offset in extents:
        if (
            (at | length | offset) % PAGE
            or not length
            or at + length > ram_bytes
            or offset + length > size
        ):
            raise Damaged(f"{what} has an extent outside of its file or its memory")
    digest = hashlib.sha256(raw + records).hexdigest()
    return Index(ram_bytes, pages, extents, digest)


class _File:
    """An open file that many may hold: of a hundred clones each has all layers of its parent."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._holders = 1
        self._turn = threading.Lock()

    def hold(self) -> _File:
        with self._turn:
            self._holders += 1
        return self

    def let_go(self) -> None:
        with self._turn:
            self._holders -= 1
            if not self._holders:
                os.close(self.fd)


class Layer:
    """A sealed layer in memory that this host agent holds a descriptor of. `close` lets go of it."""

    def __init__(self, layer_id: str, fd: int) -> None:
        self.id = layer_id
        self.index = read_index(fd, f"layer {layer_id}")
        self.bytes = os.fstat(fd).st_blocks * 512
        self._file: _File | None = _File(fd)

    @property
    def fd(self) -> int:
        """Its descriptor, which others may have as well; -1 when it was let go."""
        return -1 if self._file is None else self._file.fd

    def close(self) -> None:
        if self._file is not None:
            self._file.let_go()
            self._file = None

    def share(self) -> Layer:
        """Another holder of the same layer, closed on its own. Raises ValueError when it was let go."""
        if self._file is None:
            raise ValueError(f"layer {self.id} was let go")
        copy = object.__new__(Layer)
        copy.id, copy.index, copy.bytes = self.id, self.index, self.bytes
        copy._file = self._file.hold()
        return copy

    def records(self) -> str:
        """The hash of header and extents as they are now: a sealed layer's never changes."""
        return read_index(self.fd, f"layer {self.id}").records_sha256


def close_all(layers: Iterable[Layer]) -> None:
    for layer in layers:
        layer.close()


def joined(layers: Sequence[Layer]) -> list[Range]:
    """All that these layers hold, as few ranges: what must be copied to make one layer of them.

    Ranges are joined over small gaps, and over larger ones when they would be too many for one request.
    """
    ranges = sorted(pair for layer in layers for pair in layer.index.ranges)
    gap = 4 * PAGE
    while True:
        merged: list[list[int]] = []
        for at, length in ranges:
            if merged and at <= merged[-1][1] + gap:
                merged[-1][1] = max(merged[-1][1], at + length)
            else:
                merged.append([at, at + length])
        if len(merged) <= MOST_EXTENTS:
            return [(start, end - start) for start, end in merged]
        gap *= 4


def write_layer(fd: int, path: Path) -> str:
    """Copies a layer to disk; returns the SHA-256 of all of it. Raises NoRoom, nothing left."""
    digest = hashlib.sha256()
    try:
        with path.open("xb") as out:
            offset = 0
            while chunk := os.pread(fd, _CHUNK, offset):
                out.write(chunk)
                digest.update(chunk)
                offset += len(chunk)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise NoRoom(f"{path.name} cannot be written: {error.strerror}") from error
    return digest.hexdigest()


def load_layer(layer_id: str, path: Path, sha256: str) -> Layer:
    """Reads a layer from disk into sealed memory and checks it. Raises Damaged."""
    digest = hashlib.sha256()
    fd = new_layer(layer_id)
    try:
        with path.open("rb") as source:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                rest = memoryview(chunk)
                while rest:
                    rest = rest[os.write(fd, rest) :]
        if digest.hexdigest() != sha256:
            raise Damaged(f"{path} is not what was written: its hash differs")
        seal(fd)
        return Layer(layer_id, fd)
    except OSError as error:
        os.close(fd)
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error
    except BaseException:
        os.close(fd)
        raise
