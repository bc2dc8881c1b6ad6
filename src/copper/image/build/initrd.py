"""The first root file system of every guest: busybox, a few modules and a script.

Written as the kernel wants it (cpio "newc", Documentation/driver-api/early-userspace/buffer-format)
and left uncompressed: a guest under emulation reads 4 MB faster than it unpacks 2.
"""

from __future__ import annotations

import lzma
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from copper.image.build.recipes import recipes_dir
from copper.model.errors import CopperError


@dataclass(frozen=True)
class Entry:
    """One file of an archive; `device` is a device's major and minor number."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def init_script() -> Path:
    return recipes_dir() / "initrd" / "init"


def pack(busybox: Path, modules: Iterable[Path]) -> bytes:
    """An initial ramdisk that loads the modules in the order given and switches to the root."""
    files = list(modules)
    order = "".join(f"{module_name(path)}\n" for path in files)
    entries = [
        *(Entry(name, stat.S_IFDIR | 0o755) for name in ("bin", "dev", "modules", "proc", "root")),
        # the kernel opens this one for /init, before devtmpfs is mounted
        Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        Entry("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()),
        Entry("init", stat.S_IFREG | 0o755, init_script().read_bytes()),
        Entry("modules/order", stat.S_IFREG | 0o644, order.encode()),
        *(Entry(f"modules/{module_name(p)}", stat.S_IFREG | 0o644, unpacked(p)) for p in files),
    ]
    return cpio(entries)


def module_name(path: Path) -> str:
    return path.name.removesuffix(".xz")


def unpacked(module: Path) -> bytes:
    """A module as insmod takes it. Debian 12 ships them as they are, Debian 13 packed with xz."""
    if module.suffix == ".ko":
        return module.read_bytes()
    if module.suffix == ".xz":
        return lzma.decompress(module.read_bytes())
    raise CopperError(f"{module.name} is packed in a way that is not known: expected .ko or .ko.xz")


def cpio(entries: Iterable[Entry]) -> bytes:
    """A newc archive, owned by root, dated 0."""
    archive = bytearray()
    for inode, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        name = entry.path.encode() + b"\0"
        numbers = (
            inode,
            entry.mode,
            *(0, 0),  # owner
            2 if stat.S_ISDIR(entry.mode) else 1,  # links
            0,  # time
            len(entry.content),
            *(0, 0),  # the device that holds it
            *entry.device,
            len(name),
            0,  # checksum, unused in newc
        )
        archive += b"070701" + b"".join(b"%08X" % number for number in numbers) + name
        _pad(archive)
        archive += entry.content
        _pad(archive)
    return bytes(archive)


def _pad(archive: bytearray) -> None:
    archive += bytes(-len(archive) % 4)
