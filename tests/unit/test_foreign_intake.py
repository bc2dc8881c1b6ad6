"""A user's disk file is only read, as the format that was said, and becomes a disk of ours or one clear error."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from copper.image.foreign import intake
from copper.image.foreign.intake import Format
from copper.model.errors import BadInput, Conflict, CopperError, Damaged, NoRoom, NotFound, Refused
from copper.model.settings import Settings

MIB = 1 << 20
BOOTS = bytes([0xEB, 0x63]) + bytes(508) + b"\x55\xaa"


def qemu_img(*argv: str | Path) -> None:
    subprocess.run(["qemu-img", *argv], check=True, capture_output=True)


def raw_disk(folder: Path, first: bytes = BOOTS, mib: int = 8) -> Path:
    """A disk with a boot sector, and 2 MiB of what cannot be packed."""
    path = folder / "disk.raw"
    with path.open("wb") as out:
        out.write(first)
        out.seek(MIB)
        out.write(random.Random(1).randbytes(2 * MIB))
        out.truncate(mib * MIB)
    return path


def qcow2_disk(folder: Path, name: str = "disk.qcow2", first: bytes = BOOTS) -> Path:
    path = folder / name
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw_disk(folder, first), path)
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    folder = tmp_path / "state"
    folder.mkdir()
    return Settings(state_dir=folder, keep_disk_mib=0)


def content(disk: Path) -> str:
    plain = disk.with_name("plain")
    qemu_img("convert", "-f", "qcow2", "-O", "raw", disk, plain)
    return hashlib.sha256(plain.read_bytes()).hexdigest()


@pytest.mark.parametrize("form", ["qcow2", "raw"])
def test_a_disk_becomes_ours_and_the_file_stays_as_it_was(
    tmp_path: Path, settings: Settings, form: Format
) -> None:
    path = qcow2_disk(tmp_path) if form == "qcow2" else raw_disk(tmp_path)
    path.chmod(0o444)
    before = (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ctime_ns)
    source = intake.look(path, form)
    intake.check(source, settings)
    target = tmp_path / "ours.qcow2"
    intake.convert(source, target, source.disk_bytes)
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ctime_ns) == before
    assert source.disk_bytes == 8 * MIB
    assert content(target) == hashlib.sha256((tmp_path / "disk.raw").read_bytes()).hexdigest()
    assert intake.look(target, "qcow2").disk_bytes == 8 * MIB


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
def test_packed_clusters_are_fine(tmp_path: Path, settings: Settings, kind: str) -> None:
    path = tmp_path / "packed.qcow2"
    how = ["-c", "-o", f"compression_type={kind}"]
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *how, raw_disk(tmp_path), path)
    source = intake.look(path, "qcow2")
    intake.check(source, settings)
    intake.convert(source, tmp_path / "ours.qcow2", source.disk_bytes)
    assert content(tmp_path / "ours.qcow2") == content(path)


def test_a_disk_can_be_made_larger(tmp_path: Path) -> None:
    source = intake.look(raw_disk(tmp_path), "raw")
    target = tmp_path / "ours.qcow2"
    intake.convert(source, target, 64 * MIB)
    assert intake.look(target, "qcow2").disk_bytes == 64 * MIB


def test_a_raw_disk_that_ends_within_a_sector_gets_the_whole_sector(tmp_path: Path) -> None:
    path = raw_disk(tmp_path)
    os.truncate(path, 8 * MIB - 100)
    source = intake.look(path, "raw")
    assert source.disk_bytes == 8 * MIB
    intake.convert(source, tmp_path / "ours.qcow2", source.disk_bytes)
    assert intake.look(tmp_path / "ours.qcow2", "qcow2").disk_bytes == 8 * MIB


@pytest.mark.parametrize(
    "name",
    [
        "nbd:127.0.0.1:1",
        'json:{"driver":"raw"}',
        "--help",
        "a b",
        "fat:rw:x",
        "ä\n'\".qcow2",
        "a,b",
    ],
)
def test_no_name_of_a_file_means_anything_else(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    qcow2_disk(tmp_path).rename(tmp_path / name)
    source = intake.look(Path(name), "qcow2")
    intake.check(source, settings)
    intake.convert(source, tmp_path / "ours.qcow2", source.disk_bytes)
    assert source.origin.startswith("import:")
    assert source.origin.isprintable()


def test_the_format_is_never_guessed(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a raw disk: it is a qcow2"):
        intake.look(qcow2_disk(tmp_path), "raw")
    with pytest.raises(BadInput, match="not a qcow2 image"):
        intake.look(raw_disk(tmp_path), "qcow2")


def test_a_qcow2_inside_a_raw_disk_is_never_opened(tmp_path: Path) -> None:
    """A guest can write such a header; a program that guesses would follow it."""
    inner = tmp_path / "inner"
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", inner, "1M")
    path = raw_disk(tmp_path, first=inner.read_bytes()[:510] + b"\x55\xaa")
    with pytest.raises(BadInput, match="qcow2"):
        intake.look(path, "raw")
    source = replace(intake.look(raw_disk(tmp_path), "raw"), path=path)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", path, tmp_path / "ours.qcow2")
    assert content(tmp_path / "ours.qcow2") == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source.format == "raw"


@pytest.mark.parametrize("form", ["qcow2", "raw"])
def test_what_is_no_file_is_refused(tmp_path: Path, form: Format) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    (tmp_path / "short").write_bytes(b"QFI\xfb")
    for name, kind in (
        ("missing", NotFound),
        ("pipe", BadInput),
        (".", BadInput),
        ("/dev/null", BadInput),
        ("/dev/zero", BadInput),
        ("empty", BadInput),
        ("short", CopperError),
    ):
        with pytest.raises(kind) as caught:
            intake.look(tmp_path / name, form)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("form", "sizes"), [("raw", [512, MIB - 1]), ("qcow2", ["512", "1048064"])]
)
def test_a_disk_of_less_than_a_mebibyte_is_refused(
    tmp_path: Path, form: Format, sizes: list[int | str]
) -> None:
    for size in sizes:
        path = tmp_path / "small"
        if form == "raw":
            path.write_bytes(BOOTS.ljust(int(size), b"\0"))
        else:
            qemu_img("create", "-f", "qcow2", path, str(size))
        with pytest.raises(BadInput, match="1 MiB to 16 TiB"):
            intake.look(path, form)


def test_an_image_that_is_cut_short_is_refused(tmp_path: Path, settings: Settings) -> None:
    path = qcow2_disk(tmp_path)
    whole = path.stat().st_size
    found = []
    for length in range(65536, whole - 65536, 65536 * 3):
        os.truncate(path, length) if length < path.stat().st_size else path.write_bytes(
            qcow2_disk(tmp_path, "again.qcow2").read_bytes()[:length]
        )
        with pytest.raises(Damaged) as caught:
            intake.check(intake.look(path, "qcow2"), settings)
        found.append(str(caught.value))
        path.unlink()
        qcow2_disk(tmp_path)
    assert len(found) > 8


def test_damage_inside_is_found(tmp_path: Path, settings: Settings) -> None:
    path = qcow2_disk(tmp_path)
    data = bytearray(path.read_bytes())
    table = int.from_bytes(data[40:48], "big")
    data[table : table + 8] = (0x8000000000000000 | 0x123456789000).to_bytes(8, "big")
    path.write_bytes(data)
    with pytest.raises(Damaged, match=r"disk\.qcow2"):
        intake.check(intake.look(path, "qcow2"), settings)


def test_clusters_that_nobody_uses_are_no_damage(tmp_path: Path, settings: Settings) -> None:
    path = qcow2_disk(tmp_path)
    data = bytearray(path.read_bytes())
    table = int.from_bytes(data[48:56], "big")
    block = int.from_bytes(data[table : table + 8], "big")
    unused = len(data) // 65536
    data[block + 2 * unused : block + 2 * unused + 2] = b"\0\1"
    path.write_bytes(data + bytes(65536))
    assert subprocess.run(["qemu-img", "check", path], capture_output=True).returncode == 3
    intake.check(intake.look(path, "qcow2"), settings)


def test_a_disk_without_room_is_refused_before_it_is_copied(
    tmp_path: Path, settings: Settings
) -> None:
    source = intake.look(qcow2_disk(tmp_path), "qcow2")
    full = replace(settings, keep_disk_mib=1 << 40)
    with pytest.raises(NoRoom, match="disk is full"):
        intake.check(source, full)


def test_a_small_file_that_says_it_is_full_of_data_needs_room_for_all_of_it(
    tmp_path: Path, settings: Settings
) -> None:
    """Every entry names the same cluster: a few hundred kilobytes that would be 8 GiB."""
    path = tmp_path / "bomb.qcow2"
    qemu_img("create", "-f", "qcow2", path, "8G")
    data = bytearray(path.read_bytes().ljust(5 * 65536, b"\0"))
    l1 = int.from_bytes(data[40:48], "big")
    for entry in range(16):
        at = l1 + 8 * entry
        data[at : at + 8] = (4 * 65536).to_bytes(8, "big")  # not marked as its own: it is shared
    data += bytes(65536)
    for entry in range(8192):
        at = 4 * 65536 + 8 * entry
        data[at : at + 8] = (5 * 65536).to_bytes(8, "big")
    path.write_bytes(data)
    with pytest.raises((NoRoom, Damaged)):
        intake.check(intake.look(path, "qcow2"), replace(settings, keep_disk_mib=1 << 40))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = qcow2_disk(tmp_path)
    source = intake.look(path, "qcow2")
    os.utime(path)
    with pytest.raises(Conflict, match="changed"):
        intake.convert(source, tmp_path / "ours.qcow2", source.disk_bytes)


def test_a_disk_without_a_boot_loader_for_a_bios_is_refused(tmp_path: Path) -> None:
    uefi_only = bytes(446) + bytes([0, 0, 2, 0, 0xEE]) + bytes(59) + b"\x55\xaa"
    source = intake.look(qcow2_disk(tmp_path, first=uefi_only), "qcow2")
    with pytest.raises(Refused, match="UEFI"):
        intake.convert(source, tmp_path / "ours.qcow2", source.disk_bytes)
    source = intake.look(qcow2_disk(tmp_path, first=bytes(512)), "qcow2")
    with pytest.raises(Refused, match="no boot sector"):
        intake.convert(source, tmp_path / "ours.qcow2", source.disk_bytes)
    assert not (tmp_path / "sector").exists()
