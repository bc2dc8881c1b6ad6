"""Disks as chains of qcow2 overlays: made without a process, owned by who uses them.

An empty overlay is a header and three tables (docs/interop/qcow2.txt of QEMU); writing them here costs less
than a millisecond, and starting qemu-img costs thirty.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Iterable
from pathlib import Path

from copper.model.errors import NoRoom

CLUSTER = 1 << 16
EMPTY_OVERLAY_BYTES = 4 * CLUSTER  # header, refcount table, refcount block, first cluster of L1
LONGEST_CHAIN = 8  # overlays above the image's own disk, before they are pulled together
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")


def write_overlay(path: Path, backing: Path, size: int) -> None:
    """An empty qcow2 file of `size` bytes over `backing`. Raises NoRoom, nothing left."""
    name = str(backing).encode()
    l1_entries = -(-size // (CLUSTER * CLUSTER // 8))
    l1_clusters = max(1, -(-l1_entries * 8 // CLUSTER))
    refcount_table, refcount_block, l1_table = CLUSTER, 2 * CLUSTER, 3 * CLUSTER
    clusters = 3 + l1_clusters
    header_bytes = 104
    extensions = struct.pack(">II", 0xE2792ACA, 5) + b"qcow2\0\0\0" + struct.pack(">II", 0, 0)
    name_at = header_bytes + len(extensions)
    head = _HEADER.pack(
        b"QFI\xfb",
        3,
        name_at,
        len(name),
        CLUSTER.bit_length() - 1,
        size,
        0,
        l1_entries,
        l1_table,
        refcount_table,
        1,
        0,
        0,
    )
    # incompatible, compatible, autoclear features; refcounts of 2^4 bits; header length
    head += struct.pack(">QQQII", 0, 0, 0, 4, header_bytes)
    try:
        with path.open("xb") as out:
            out.write(head + extensions + name)
            out.seek(refcount_table)
            out.write(struct.pack(">Q", refcount_block))
            out.seek(refcount_block)
            out.write(struct.pack(">H", 1) * clusters)
            out.truncate((3 + l1_clusters) * CLUSTER)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise NoRoom(f"no disk for a VM: {error.strerror}") from error


def new_overlay(folder: Path, backing: Path, size: int) -> Path:
    """Makes an overlay with a name that nobody has."""
    path = folder / f"{secrets.token_hex(8)}.qcow2"
    write_overlay(path, backing, size)
    return path


def is_untouched(overlay: Path) -> bool:
    """Nothing was ever written to it: the first write would have made it longer."""
    return overlay.stat().st_size <= EMPTY_OVERLAY_BYTES


def remove_unused(folder: Path, candidates: Iterable[Path], used: Iterable[Path]) -> None:
    """Deletes those overlays of `folder` that nobody's chain names any more."""
    keep = set(used)
    for path in set(candidates):
        if path not in keep and path.parent == folder:
            path.unlink(missing_ok=True)


def check_room(folder: Path, keep_mib: int, wanted_bytes: int, what: str) -> None:
    """Raises NoRoom when writing so much would leave less than `keep_mib` free."""
    stat = os.statvfs(folder)
    free = stat.f_bavail * stat.f_frsize
    if free - wanted_bytes < keep_mib << 20:
        raise NoRoom(
            f"the disk is full: {what} needs {wanted_bytes >> 20} MiB, {free >> 20} MiB are free"
            f" and {keep_mib} MiB stay free",
            advice="make room, or set COPPER_KEEP_DISK_MIB",
        )
