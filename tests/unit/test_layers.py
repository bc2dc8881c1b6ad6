"""Layer files: read, checked, joined, stored, sealed."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copper.image.layers import Layer, joined, load_layer, read_index, write_layer
from copper.model.errors import Damaged
from copper.vmm.layers import PAGE, is_sealed, new_layer, seal

RAM = 64 << 20


def layer_bytes(extents: list[tuple[int, int]], *, ram: int = RAM) -> bytes:
    """A right layer with these (offset, bytes), its pages filled with their number."""
    pages, index, at = b"", b"", PAGE
    for number, (offset, length) in enumerate(extents):
        pages += bytes([number % 255 + 1]) * length
        index += struct.pack("<QQQ", offset, length, at)
        at += length
    header = struct.pack(
        "<8sIIQQQQ", b"COPPERL1", 1, PAGE, ram, len(extents), at, len(pages) // PAGE
    )
    return header.ljust(PAGE, b"\0") + pages + index


@pytest.fixture
def held() -> Iterator[list[int]]:
    fds: list[int] = []
    yield fds
    for fd in fds:
        os.close(fd)


def in_memory(held: list[int], raw: bytes) -> int:
    fd = new_layer("test")
    held.append(fd)
    os.write(fd, raw)
    return fd


def test_an_index_is_read_back(held: list[int]) -> None:
    index = read_index(in_memory(held, layer_bytes([(0, PAGE), (8 * PAGE, 2 * PAGE)])))
    assert index.ranges == [(0, PAGE), (8 * PAGE, 2 * PAGE)]
    assert (index.pages, index.ram_bytes) == (3, RAM)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda raw: raw[:20], "cut short"),
        (lambda raw: raw[:-1], "cut short"),
        (lambda raw: b"COPPERX1" + raw[8:], "not a memory layer"),
        (lambda raw: raw[:8] + b"\x02" + raw[9:], "format 2"),
        (lambda raw: raw[:-24] + struct.pack("<QQQ", RAM, PAGE, PAGE), "outside"),
        (lambda raw: raw[:-24] + struct.pack("<QQQ", 0, 1 << 40, PAGE), "outside"),
        (lambda raw: raw[:-24] + struct.pack("<QQQ", 1, PAGE, PAGE), "outside"),
        (lambda raw: raw[:-24] + struct.pack("<QQQ", 0, 0, PAGE), "outside"),
    ],
)
def test_a_damaged_layer_is_refused(held: list[int], change: object, says: str) -> None:
    raw = change(layer_bytes([(0, PAGE)]))  # type: ignore[operator]
    with pytest.raises(Damaged, match=says):
        read_index(in_memory(held, raw))


@given(st.binary(max_size=400))
def test_no_bytes_at_all_make_the_reader_fail_otherwise(tail: bytes) -> None:
    fd = new_layer("test")
    try:
        os.write(fd, b"COPPERL1\x01\0\0\0\0\x10\0\0" + tail)
        read_index(fd)
    except Damaged:
        pass
    finally:
        os.close(fd)


def test_a_sealed_layer_cannot_be_written_by_anybody(held: list[int]) -> None:
    fd = in_memory(held, layer_bytes([(0, PAGE)]))
    seal(fd)
    assert is_sealed(fd)
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", PAGE)
    with pytest.raises(PermissionError):
        os.truncate(fd, 0)
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    held.append(again)
    with pytest.raises(PermissionError):
        os.pwrite(again, b"x", PAGE)


def test_a_layer_survives_the_disk_and_a_flipped_bit_does_not(tmp_path: Path) -> None:
    fd = new_layer("test")
    os.write(fd, layer_bytes([(PAGE, 4 * PAGE)]))
    seal(fd)
    path = tmp_path / "memory"
    digest = write_layer(fd, path)
    os.close(fd)
    layer = load_layer("test", path, digest)
    assert layer.index.ranges == [(PAGE, 4 * PAGE)]
    assert is_sealed(layer.fd)
    layer.close()
    raw = bytearray(path.read_bytes())
    raw[2 * PAGE] ^= 1
    path.write_bytes(raw)
    with pytest.raises(Damaged, match="hash"):
        load_layer("test", path, digest)
    with pytest.raises(Damaged, match="cannot be read"):
        load_layer("test", tmp_path / "gone", digest)


@given(st.lists(st.lists(st.integers(0, 400), max_size=12), min_size=1, max_size=5))
def test_joined_ranges_hold_every_page_once(pages: list[list[int]]) -> None:
    layers = []
    for numbers in pages:
        fd = new_layer("test")
        os.write(fd, layer_bytes([(n * PAGE, PAGE) for n in sorted(set(numbers))]))
        layers.append(Layer("test", fd))
    ranges = joined(layers)
    covered = [n for at, length in ranges for n in range(at // PAGE, (at + length) // PAGE)]
    assert len(covered) == len(set(covered))
    assert {n for numbers in pages for n in numbers} <= set(covered)
    assert ranges == sorted(ranges)
    for layer in layers:
        layer.close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_many_hold_a_layer_by_one_descriptor_and_the_last_closes_it() -> None:
    fd = new_layer("test")
    os.write(fd, layer_bytes([(0, PAGE)]))
    layer = Layer("test", fd)
    before = descriptors()
    holders = [layer.share() for _ in range(50)]
    holders.append(holders[0].share())
    assert descriptors() == before
    assert {holder.fd for holder in holders} == {layer.fd}
    layer.close()
    layer.close()  # again: nothing to do
    assert layer.fd == -1
    with pytest.raises(ValueError, match="was let go"):
        layer.share()
    for holder in holders[1:]:
        holder.close()
    assert os.fstat(fd)
    holders[0].close()
    assert descriptors() == before - 1
