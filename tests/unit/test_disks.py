"""Overlays that are written without qemu-img are what qemu-img takes for right."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from copper.image import disks
from copper.model.errors import NoRoom


def qemu_img(*argv: str) -> str:
    done = subprocess.run(["qemu-img", *argv], capture_output=True, text=True, check=True)
    return done.stdout


def qemu_io(path: Path, *commands: str) -> str:
    argv = ["qemu-io", "-f", "qcow2"]
    for command in commands:
        argv += ["-c", command]
    return subprocess.run([*argv, str(path)], capture_output=True, text=True, check=False).stdout


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    path = tmp_path / "base.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", str(path), "64M")
    qemu_io(path, "write -P 7 1M 1M")
    return path


@pytest.mark.parametrize("size", [1 << 20, (64 << 20) - 512, 64 << 20, 3 << 40, 9 << 40])
def test_qemu_finds_nothing_wrong_with_an_overlay(tmp_path: Path, backing: Path, size: int) -> None:
    overlay = tmp_path / "overlay.qcow2"
    disks.write_overlay(overlay, backing, size)
    qemu_img("check", "-q", str(overlay))
    info = json.loads(qemu_img("info", "--output", "json", str(overlay)))
    assert info["virtual-size"] == size
    assert info["backing-filename"] == str(backing)
    assert info["backing-filename-format"] == "qcow2"


def test_an_overlay_shows_its_backing_file_until_it_is_written(
    tmp_path: Path, backing: Path
) -> None:
    overlay = disks.new_overlay(tmp_path, backing, 64 << 20)
    assert disks.is_untouched(overlay)
    assert "Pattern verification failed" not in qemu_io(overlay, "read -P 7 1M 1M")
    assert disks.is_untouched(overlay)
    said = qemu_io(overlay, "write -P 9 1028k 4k", "read -P 9 1028k 4k", "read -P 7 1M 4k")
    assert "Pattern verification failed" not in said
    assert not disks.is_untouched(overlay)
    assert "Pattern verification failed" not in qemu_io(backing, "read -P 7 1M 1M")


@pytest.mark.parametrize("command", ["write -z 0 64k", "discard 0 64k", "write -P 1 63M 512"])
def test_the_smallest_write_is_seen(tmp_path: Path, backing: Path, command: str) -> None:
    overlay = disks.new_overlay(tmp_path, backing, 64 << 20)
    qemu_io(overlay, command)
    changed = qemu_io(overlay, "read -P 0 0 64k", "read -P 0 63M 512")
    assert not disks.is_untouched(overlay) or "Pattern verification failed" not in changed


def test_a_disk_without_room_is_refused_and_nothing_is_left(tmp_path: Path, backing: Path) -> None:
    with pytest.raises(NoRoom, match="stay free"):
        disks.check_room(tmp_path, 1 << 40, 0, "a VM")
    with pytest.raises(NoRoom):
        disks.write_overlay(tmp_path / "no such folder" / "x.qcow2", backing, 1 << 20)


def test_only_disks_that_nobody_stands_on_are_removed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "disks", tmp_path / "images"
    for place in (folder, elsewhere):
        place.mkdir()
    mine, shared, template = folder / "a.qcow2", folder / "b.qcow2", elsewhere / "disk.qcow2"
    for path in (mine, shared, template):
        path.touch()
    disks.remove_unused(folder, [template, shared, mine], [shared])
    assert not mine.exists()
    assert shared.exists()
    assert template.exists()
