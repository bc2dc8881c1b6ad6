"""A qcow2 file's header, read here before QEMU sees the file (QEMU's docs/interop/qcow2.txt).

A header can name other files of this machine, which QEMU would open and a guest could then read. So only what keeps
to itself passes: no backing file, no external data file, no encryption, no feature that is not known here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from copper.model.errors import BadInput, CopperError, Damaged, Foreign, Refused

MAGIC = b"QFI\xfb"
LONGEST_HEADER = 2 << 20  # the largest cluster: header, extensions and names lie in the first one
MOST_DISK_BYTES = 16 << 40

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")  # follows: features, refcount order, header length
_V3_BYTES = _V2.size + _V3.size
_COMPRESSION_AT = 104

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2

_EXTENSION = struct.Struct(">II")
_DATA_FILE_NAME = 0x44415441
_ENCRYPTION = 0x0537BE77

_MOST_L1_BYTES = 32 << 20  # these two as QEMU has them
_MOST_REFCOUNT_TABLE_BYTES = 8 << 20
_MOST_SNAPSHOTS = 65536

# How other files begin, so that a mistake gets a sentence: the first bytes, and what to do.
_OTHERS = (
    (MAGIC, "a qcow2 image", "--format qcow2"),
    (b"KDMV", "a VMDK image", "qemu-img convert makes a qcow2 of it"),
    (b"# Disk DescriptorFile", "a VMDK descriptor", "qemu-img convert makes a qcow2 of it"),
    (b"vhdxfile", "a VHDX image", "qemu-img convert makes a qcow2 of it"),
    (b"conectix", "a VHD image", "qemu-img convert makes a qcow2 of it"),
    (b"<<< ", "a VDI image", "qemu-img convert makes a qcow2 of it"),
    (b"QED\0", "a QED image", "qemu-img convert makes a qcow2 of it"),
    (b"\xfd7zXZ\0", "packed with xz", "unxz unpacks it"),
    (b"\x1f\x8b", "packed with gzip", "gunzip unpacks it"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "unzstd unpacks it"),
    (b"BZh", "packed with bzip2", "bunzip2 unpacks it"),
    (b"PK\x03\x04", "a zip archive", "unzip unpacks it"),
)


@dataclass(frozen=True)
class Header:
    """What a sound header says."""

    version: int
    disk_bytes: int  # as a guest sees it
    cluster_bytes: int


def what_it_is(head: bytes) -> tuple[str, str] | None:
    """What a file that begins so is, and what to do with it, where that is known."""
    return next(((what, how) for magic, what, how in _OTHERS if head.startswith(magic)), None)


def not_that(head: bytes, wanted: str) -> CopperError:
    """The error for a file that is not of the format that was said."""
    known = what_it_is(head)
    if known is not None:
        return BadInput(f"it is not {wanted}: it is {known[0]}", advice=known[1])
    advice = "--format raw, if it is a raw disk" if head[510:512] == b"\x55\xaa" else ""
    return BadInput(f"it is not {wanted}: it begins with {head[:4].hex(' ')}", advice=advice)


def read_header(head: bytes, file_bytes: int) -> Header:
    """Checks the first bytes of a qcow2 file of `file_bytes`; `head` has up to LONGEST_HEADER of them.

    Raises BadInput when it is no qcow2, Refused for what leads out of the file or is encrypted, Foreign for what this
    Copper does not know, Damaged for what cannot be right.
    """
    if not head.startswith(MAGIC):
        raise not_that(head, "a qcow2 image")
    if len(head) < _V2.size:
        raise Damaged("its header is cut short")
    (
        _,
        version,
        backing_at,
        backing_bytes,
        cluster_bits,
        disk_bytes,
        encryption,
        l1_entries,
        l1_at,
        refcounts_at,
        refcount_clusters,
        snapshots,
        snapshots_at,
    ) = _V2.unpack_from(head)
    if version not in (2, 3):
        raise Foreign(f"it is qcow2 version {version}", advice="2 and 3 are known")
    header_bytes = _features(head) if version == 3 else _V2.size
    if backing_at or backing_bytes:
        raise Refused(
            f"it is an overlay over another file{_named(head, backing_at, backing_bytes)}",
            advice="qemu-img convert joins both into one file",
        )
    if encryption:
        raise Refused("it is encrypted", advice="qemu-img convert decrypts it")
    if not 9 <= cluster_bits <= 21:
        raise Damaged(
            f"its clusters have 2^{cluster_bits} bytes", advice="2^9 to 2^21 are possible"
        )
    cluster = 1 << cluster_bits
    if header_bytes > cluster:
        raise Damaged("its header is longer than a cluster")
    if not 0 < disk_bytes <= MOST_DISK_BYTES:
        raise Damaged(f"its disk has {disk_bytes} bytes", advice="at most 16 TiB are possible")
    _extensions(head[:cluster], header_bytes)
    # one entry for as much as one cluster of L2 entries covers; extended ones are twice as long
    extended = version == 3 and _V3.unpack_from(head, _V2.size)[0] & _EXTENDED_L2
    covered = cluster * (cluster // (16 if extended else 8))
    if l1_entries * 8 > _MOST_L1_BYTES or l1_entries < -(-disk_bytes // covered):
        raise Damaged(
            f"its table of {l1_entries} entries does not fit a disk of {disk_bytes} bytes"
        )
    if not 0 < refcount_clusters * cluster <= _MOST_REFCOUNT_TABLE_BYTES:
        raise Damaged(f"its reference counts have a table of {refcount_clusters} clusters")
    if snapshots > _MOST_SNAPSHOTS:
        raise Damaged(f"it has {snapshots} snapshots")
    for what, at, length in (
        ("table of clusters", l1_at, l1_entries * 8),
        # the last cluster of a table may end with the file
        ("table of reference counts", refcounts_at, 8),
        ("table of snapshots", snapshots_at if snapshots else cluster, snapshots and 1),
    ):
        if at % cluster or at == 0 or (length and at + length > file_bytes):
            raise Damaged(f"its {what} is at {at}, and the file has {file_bytes} bytes")
    return Header(version, disk_bytes, cluster)


def _features(head: bytes) -> int:
    """Checks what version 3 adds; returns the header's length."""
    if len(head) < _V3_BYTES:
        raise Damaged("its header is cut short")
    incompatible, _, _, refcount_order, header_bytes = _V3.unpack_from(head, _V2.size)
    if unknown := incompatible & ~_KNOWN:
        bits = ", ".join(str(bit) for bit in range(64) if unknown >> bit & 1)
        raise Foreign(f"it uses features of qcow2 that are not known here: bit {bits}")
    if incompatible & _DATA_FILE:
        raise Refused(
            "its data is in another file", advice="qemu-img convert joins both into one file"
        )
    if incompatible & _CORRUPT:
        raise Damaged("it says of itself that it is damaged")
    if incompatible & _DIRTY:
        raise Refused(
            "it was not closed: a program writes to it or was ended while it did",
            advice="qemu-img check -r all mends one that nobody uses",
        )
    if header_bytes < _V3_BYTES or header_bytes % 8 or header_bytes > len(head):
        raise Damaged(f"its header says that it has {header_bytes} bytes")
    if refcount_order > 6:
        raise Damaged(f"its reference counts have 2^{refcount_order} bits")
    compression = head[_COMPRESSION_AT] if header_bytes > _COMPRESSION_AT else 0
    if compression > 1:
        raise Foreign(
            f"it is compressed with method {compression}", advice="zlib and zstd are known"
        )
    if bool(incompatible & _COMPRESSION) != bool(compression):
        raise Damaged("its header contradicts itself: which compression it has")
    return int(header_bytes)


def _extensions(cluster: bytes, at: int) -> None:
    """Walks the header's extensions up to their end. Unknown ones ask for nothing, as the format says."""
    while at + _EXTENSION.size <= len(cluster):
        kind, length = _EXTENSION.unpack_from(cluster, at)
        if kind == 0:
            return
        at += _EXTENSION.size
        if length > len(cluster) - at:
            raise Damaged("its header's extensions do not end in it")
        if kind == _DATA_FILE_NAME:
            raise Refused(
                f"its data is in another file{_named(cluster, at, length)}",
                advice="qemu-img convert joins both into one file",
            )
        if kind == _ENCRYPTION:
            raise Refused("it is encrypted", advice="qemu-img convert decrypts it")
        at += -(-length // 8) * 8


def _named(head: bytes, at: int, length: int) -> str:
    """`: NAME` for a name in the header that a line can show."""
    text = head[at : at + min(length, 80)].decode(errors="replace")
    return f": {text}" if text and text.isprintable() else ""
