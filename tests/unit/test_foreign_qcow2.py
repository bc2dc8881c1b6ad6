"""A qcow2 header is read before QEMU sees the file: what leads out of it, or cannot be right, is refused."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from copper.image.foreign.qcow2 import LONGEST_HEADER, MAGIC, Header, read_header
from copper.model.errors import BadInput, CopperError, Damaged, Foreign, Refused

CLUSTER = 1 << 16
FILE_BYTES = 1 << 30

# where each field is, and how wide: QEMU's docs/interop/qcow2.txt
FIELDS = {
    "version": (4, ">I"),
    "backing_at": (8, ">Q"),
    "backing_bytes": (16, ">I"),
    "cluster_bits": (20, ">I"),
    "size": (24, ">Q"),
    "encryption": (32, ">I"),
    "l1_entries": (36, ">I"),
    "l1_at": (40, ">Q"),
    "refcounts_at": (48, ">Q"),
    "refcount_clusters": (56, ">I"),
    "snapshots": (60, ">I"),
    "snapshots_at": (64, ">Q"),
    "incompatible": (72, ">Q"),
    "refcount_order": (96, ">I"),
    "header_bytes": (100, ">I"),
    "compression": (104, ">B"),
}
SOUND = {
    "version": 3,
    "cluster_bits": 16,
    "size": 10 << 30,
    "l1_entries": 20,
    "l1_at": 3 * CLUSTER,
    "refcounts_at": CLUSTER,
    "refcount_clusters": 1,
    "refcount_order": 4,
    "header_bytes": 112,
}


def header(extensions: bytes = bytes(8), /, **fields: int) -> bytes:
    """The first cluster of a sound image, with these fields instead."""
    values = {**SOUND, **fields}
    data = bytearray(CLUSTER)
    data[:4] = MAGIC
    for name, value in values.items():
        at, form = FIELDS[name]
        struct.pack_into(form, data, at, value)
    at = values["header_bytes"] if values["version"] == 3 else 72
    if 72 <= at <= CLUSTER - len(extensions):
        data[at : at + len(extensions)] = extensions
    return bytes(data)


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack(">II", kind, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")


def qemu_img(*argv: str | Path) -> None:
    subprocess.run(["qemu-img", *argv], check=True)


def refused(data: bytes, file_bytes: int = FILE_BYTES) -> CopperError:
    with pytest.raises(CopperError) as caught:
        read_header(data, file_bytes)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_sound_header_passes() -> None:
    assert read_header(header(), FILE_BYTES) == Header(3, 10 << 30, CLUSTER)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ("", "10G"),
        ("compat=0.10", "10G"),
        ("cluster_size=512", "1G"),
        ("cluster_size=2M", "100G"),
        ("extended_l2=on,cluster_size=128k", "10G"),
        ("refcount_bits=1", "1M"),
        ("refcount_bits=64", "1M"),
        ("compression_type=zstd", "10G"),
        ("lazy_refcounts=on", "10G"),
        ("preallocation=metadata", "64M"),
    ],
)
def test_what_qemu_makes_passes(tmp_path: Path, options: str, size: str) -> None:
    path = tmp_path / "disk.qcow2"
    how = ["-o", options] if options else []
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *how, path, size], check=True)
    found = read_header(path.read_bytes()[:LONGEST_HEADER], path.stat().st_size)
    unit = {"M": 20, "G": 30}[size[-1]]
    assert found.disk_bytes == int(size[:-1]) << unit


def test_an_image_with_snapshots_and_bitmaps_passes(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "64M")
    qemu_img("snapshot", "-c", "one", path)
    qemu_img("bitmap", "--add", path, "b")
    assert (
        read_header(path.read_bytes()[:LONGEST_HEADER], path.stat().st_size).disk_bytes == 64 << 20
    )


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("name", ["/etc/shadow", "nbd://127.0.0.1/x", 'json:{"driver":"file"}'])
def test_a_backing_file_is_refused_and_named(version: int, name: str) -> None:
    at = 512
    data = bytearray(header(version=version, backing_at=at, backing_bytes=len(name)))
    data[at : at + len(name)] = name.encode()
    error = refused(bytes(data))
    assert isinstance(error, Refused)
    assert name in error.message


@pytest.mark.parametrize(
    "fields",
    [{"backing_at": 512}, {"backing_bytes": 8}, {"backing_at": 1 << 60, "backing_bytes": 1}],
)
def test_half_a_backing_file_is_refused_too(fields: dict[str, int]) -> None:
    assert isinstance(refused(header(**fields)), Refused)


def test_what_qemu_makes_of_an_overlay_is_refused(tmp_path: Path) -> None:
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", base, "1M"], check=True)
    qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, overlay)
    error = refused(overlay.read_bytes(), overlay.stat().st_size)
    assert isinstance(error, Refused)
    assert str(base) in error.message


@pytest.mark.parametrize("raw", ["on", "off"])
def test_what_qemu_makes_with_an_external_data_file_is_refused(tmp_path: Path, raw: str) -> None:
    path = tmp_path / "disk.qcow2"
    how = f"data_file={tmp_path / 'data'},data_file_raw={raw}"
    qemu_img("create", "-q", "-f", "qcow2", "-o", how, path, "1M")
    error = refused(path.read_bytes(), path.stat().st_size)
    assert isinstance(error, Refused)
    assert "another file" in error.message


def test_the_name_of_a_data_file_is_refused_even_where_its_feature_is_off() -> None:
    error = refused(header(extension(0x44415441, b"/etc/shadow") + bytes(8)))
    assert isinstance(error, Refused)
    assert "/etc/shadow" in error.message


def test_a_name_that_would_break_the_line_is_not_shown() -> None:
    error = refused(header(extension(0x44415441, b"a\nb\x1b[2J") + bytes(8)))
    assert "\x1b" not in str(error)


@pytest.mark.parametrize("behind", [b"feature name table", b"", bytes(400)])
def test_what_is_refused_is_found_behind_other_extensions(behind: bytes) -> None:
    first = extension(0x6803F857, behind) + extension(0x23852875, bytes(24)) + extension(7, behind)
    read_header(header(first + bytes(8)), FILE_BYTES)
    assert isinstance(refused(header(first + extension(0x44415441, b"/x"))), Refused)


@pytest.mark.parametrize("method", [1, 2, 3, 0xFFFFFFFF])
def test_an_encrypted_image_is_refused(method: int) -> None:
    assert isinstance(refused(header(encryption=method)), Refused)


def test_a_luks_header_is_refused() -> None:
    assert isinstance(refused(header(extension(0x0537BE77, bytes(16)))), Refused)


@pytest.mark.parametrize("bit", range(64))
def test_of_the_incompatible_features_only_compression_and_long_entries_pass(bit: int) -> None:
    data = header(incompatible=1 << bit, compression=1 if bit == 3 else 0)
    if bit in (3, 4):
        fine = data if bit == 3 else header(incompatible=1 << bit, l1_entries=40)
        assert read_header(fine, FILE_BYTES).disk_bytes == 10 << 30
        return
    error = refused(data)
    kind = {0: Refused, 1: Damaged, 2: Refused}.get(bit, Foreign)
    assert type(error) is kind
    if kind is Foreign:
        assert str(bit) in error.message


HOSTILE = [
    ({"version": 0}, Foreign),
    ({"version": 1}, Foreign),
    ({"version": 4}, Foreign),
    ({"version": 0xFFFFFFFF}, Foreign),
    ({"cluster_bits": 0}, Damaged),
    ({"cluster_bits": 8}, Damaged),
    ({"cluster_bits": 22}, Damaged),
    ({"cluster_bits": 63}, Damaged),
    ({"cluster_bits": 0xFFFFFFFF}, Damaged),
    ({"size": 0}, Damaged),
    ({"size": (16 << 40) + 1, "l1_entries": 1 << 20}, Damaged),
    ({"size": 0xFFFFFFFFFFFFFFFF}, Damaged),
    ({"size": 1 << 63}, Damaged),
    ({"l1_entries": 0}, Damaged),
    ({"l1_entries": 19}, Damaged),
    ({"l1_entries": (32 << 20) // 8 + 1}, Damaged),
    ({"l1_entries": 0xFFFFFFFF}, Damaged),
    ({"l1_at": 0}, Damaged),
    ({"l1_at": CLUSTER + 8}, Damaged),
    ({"l1_at": 1 << 62}, Damaged),
    ({"l1_at": FILE_BYTES}, Damaged),
    ({"l1_at": 0xFFFFFFFFFFFF0000}, Damaged),
    ({"refcounts_at": 0}, Damaged),
    ({"refcounts_at": 17}, Damaged),
    ({"refcounts_at": 0xFFFFFFFFFFFF0000}, Damaged),
    ({"refcount_clusters": 0}, Damaged),
    ({"refcount_clusters": 129}, Damaged),
    ({"refcount_clusters": 0xFFFFFFFF}, Damaged),
    ({"snapshots": 65537, "snapshots_at": 4 * CLUSTER}, Damaged),
    ({"snapshots": 0xFFFFFFFF, "snapshots_at": 4 * CLUSTER}, Damaged),
    ({"snapshots": 1, "snapshots_at": 0}, Damaged),
    ({"snapshots": 1, "snapshots_at": 9}, Damaged),
    ({"snapshots": 1, "snapshots_at": 1 << 40}, Damaged),
    ({"header_bytes": 0}, Damaged),
    ({"header_bytes": 72}, Damaged),
    ({"header_bytes": 103}, Damaged),
    ({"header_bytes": 105}, Damaged),
    ({"header_bytes": CLUSTER + 8}, Damaged),
    ({"header_bytes": 0xFFFFFFF8}, Damaged),
    ({"header_bytes": 1024, "cluster_bits": 9, "l1_entries": 1 << 20}, Damaged),
    ({"refcount_order": 7}, Damaged),
    ({"refcount_order": 0xFFFFFFFF}, Damaged),
    ({"compression": 1}, Damaged),
    ({"incompatible": 8}, Damaged),
    ({"compression": 2, "incompatible": 8}, Foreign),
    ({"compression": 255, "incompatible": 8}, Foreign),
]


@pytest.mark.parametrize(("fields", "kind"), HOSTILE)
def test_hostile_numbers_are_refused(fields: dict[str, int], kind: type[CopperError]) -> None:
    assert type(refused(header(**fields))) is kind


def test_an_extension_that_does_not_end_in_the_header_is_refused() -> None:
    for length in (CLUSTER, 0xFFFFFFFF, CLUSTER - 112 - 7):
        assert type(refused(header(struct.pack(">II", 0x23852875, length)))) is Damaged


@pytest.mark.parametrize("length", [4, 5, 71, 72, 103])
def test_a_header_that_is_cut_short_is_refused(length: int) -> None:
    assert isinstance(refused(header()[:length], length), Damaged)


@pytest.mark.parametrize(
    ("begin", "named"),
    [
        (b"", "begins with"),
        (b"QFI", "begins with"),
        (bytes(600), "begins with"),
        (b"KDMV", "VMDK"),
        (b"# Disk DescriptorFile", "VMDK"),
        (b"vhdxfile", "VHDX"),
        (b"conectix", "VHD"),
        (b"<<< Oracle", "VDI"),
        (b"QED\0", "QED"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x1f\x8b", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh9", "bzip2"),
        (b"PK\x03\x04", "zip"),
    ],
)
def test_what_is_no_qcow2_is_told_what_it_is(begin: bytes, named: str) -> None:
    error = refused(begin.ljust(600, b"\0") if len(begin) > 3 else begin)
    assert isinstance(error, BadInput)
    assert named in str(error)


def test_a_raw_disk_taken_for_a_qcow2_gets_advice() -> None:
    assert "--format raw" in str(refused(bytes(510) + b"\x55\xaa"))


@given(
    st.dictionaries(
        st.sampled_from(sorted(FIELDS)), st.integers(0, (1 << 64) - 1) | st.integers(0, 200)
    ),
    st.binary(max_size=64),
    st.integers(0, 1 << 40),
)
@example({"incompatible": 16}, b"", 1 << 30)
def test_whatever_passes_keeps_to_itself(
    fields: dict[str, int], extensions: bytes, file_bytes: int
) -> None:
    """The promise, held against what was written rather than against how it is read."""
    fitted = {
        name: value % (1 << 8 * struct.calcsize(FIELDS[name][1])) for name, value in fields.items()
    }
    data = header(extensions, **fitted)
    values = {**dict.fromkeys(FIELDS, 0), **SOUND, **fitted}
    try:
        found = read_header(data, file_bytes)
    except CopperError as error:
        assert len(str(error)) < 400
        return
    assert found.disk_bytes == values["size"] <= 16 << 40
    assert values["backing_at"] == values["backing_bytes"] == values["encryption"] == 0
    assert values["l1_at"] + 8 * values["l1_entries"] <= file_bytes
    if values["version"] == 3:
        assert not values["incompatible"] & ~(8 | 16)


@given(st.binary(max_size=4096))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    for head in (data, MAGIC + data, header()[:72] + data):
        try:
            read_header(head, len(head))
        except CopperError as error:
            assert "\n" not in str(error)
