"""The initial ramdisk: which modules, in which order, in an archive that cpio can read."""

from __future__ import annotations

import lzma
import stat
import subprocess
from pathlib import Path

import pytest

from copper.image.build import initrd
from copper.image.build.initrd import Entry
from copper.image.build.modules import Modules
from copper.model.errors import BadInput, CopperError

TABLES = {
    "modules.dep": """\
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_pci_modern_dev.ko \
kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_pci_modern_dev.ko:
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/char/hw_random/virtio-rng.ko.xz: kernel/drivers/virtio/virtio.ko \
kernel/drivers/virtio/virtio_ring.ko
kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko
kernel/fs/jbd2/jbd2.ko:
kernel/arch/x86/crypto/crc32c-intel.ko:
""",
    "modules.builtin": "kernel/fs/mbcache.ko\nkernel/drivers/net/loopback.ko\n",
    "modules.softdep": "# soft\nsoftdep ext4 pre: crc32c no_such_thing post: later\n",
    "modules.alias": "alias crc32c crc32c_intel\nalias virtio:d00000004v* virtio_rng\n",
}


@pytest.fixture
def modules(tmp_path: Path) -> Modules:
    folder = tmp_path / "6.1.0-1-cloud-amd64"
    folder.mkdir()
    for name, text in TABLES.items():
        (folder / name).write_text(text)
    return Modules(folder)


def order(modules: Modules, *names: str) -> list[str]:
    return [path.name for path in modules.load_order(names)]


def test_a_module_comes_after_what_it_needs(modules: Modules) -> None:
    assert order(modules, "virtio_pci") == [
        "virtio_ring.ko",
        "virtio.ko",
        "virtio_pci_modern_dev.ko",
        "virtio_pci.ko",
    ]


def test_each_module_comes_once_and_either_spelling_is_fine(modules: Modules) -> None:
    loaded = order(modules, "virtio_pci", "virtio-rng", "virtio_rng")
    assert loaded[-1] == "virtio-rng.ko.xz"
    assert len(loaded) == len(set(loaded)) == 5


def test_soft_dependencies_come_first_by_their_alias(modules: Modules) -> None:
    assert order(modules, "ext4") == ["crc32c-intel.ko", "jbd2.ko", "ext4.ko"]


def test_what_is_built_in_needs_no_file(modules: Modules) -> None:
    assert order(modules, "loopback") == []


def test_a_module_that_does_not_exist_is_named(modules: Modules) -> None:
    with pytest.raises(BadInput, match=r"6\.1\.0-1-cloud-amd64 has no module floppy_disc"):
        modules.load_order(["virtio_pci", "floppy_disc"])


def test_modules_are_unpacked_for_insmod(tmp_path: Path) -> None:
    packed = tmp_path / "a.ko.xz"
    packed.write_bytes(lzma.compress(b"\x7fELF"))
    assert initrd.unpacked(packed) == b"\x7fELF"
    with pytest.raises(CopperError, match=r"a\.ko\.br is packed"):
        initrd.unpacked(tmp_path / "a.ko.br")


def test_cpio_reads_the_archive(tmp_path: Path) -> None:
    content = bytes(range(256)) * 33 + b"x"
    archive = initrd.cpio(
        [
            Entry("dev", stat.S_IFDIR | 0o755),
            Entry("dev/file", stat.S_IFREG | 0o640, content),
            Entry("empty", stat.S_IFREG | 0o644),
        ]
    )
    assert archive == initrd.cpio(
        [
            Entry("dev", stat.S_IFDIR | 0o755),
            Entry("dev/file", stat.S_IFREG | 0o640, content),
            Entry("empty", stat.S_IFREG | 0o644),
        ]
    )
    subprocess.run(
        ["cpio", "--extract", "--quiet"], input=archive, cwd=tmp_path, check=True, timeout=20
    )
    assert (tmp_path / "dev/file").read_bytes() == content
    assert stat.S_IMODE((tmp_path / "dev/file").stat().st_mode) == 0o640
    assert (tmp_path / "empty").read_bytes() == b""
