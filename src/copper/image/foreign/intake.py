"""A user's disk file → a disk of ours. The file is only read, and only as the format that was said."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from copper.image.build.run import run
from copper.image.disks import check_room
from copper.image.foreign.qcow2 import (
    LONGEST_HEADER,
    MOST_DISK_BYTES,
    not_that,
    read_header,
    what_it_is,
)
from copper.model.errors import BadInput, Conflict, CopperError, Damaged, NotFound, Refused
from copper.model.settings import Settings

Format = Literal["qcow2", "raw"]

LEAST_DISK_BYTES = 1 << 20
SECTOR = 512
QEMU_IMG_BYTES = (
    4 << 30
)  # of memory: what a file makes qemu-img ask for is not its maker's to choose
CHECK_S = 600.0
CONVERT_S = 3600.0
# nothing, damage, clusters that nobody uses; those cost room, and harm nothing
_CHECKED = (0, 2, 3)


@dataclass(frozen=True)
class Source:
    """A file that was looked at and found sound."""

    path: Path  # absolute: no qemu-img takes it for a protocol or an option
    format: Format
    disk_bytes: int  # as a guest sees it, a multiple of 512
    sha256: str
    seen: tuple[int, ...]  # how the file was then

    @property
    def origin(self) -> str:
        """The file's name, as an image remembers where it is from: no recipe has such a name."""
        name = "".join(c if c.isprintable() else "?" for c in self.path.name)
        return f"import:{name[:100]}"


def look(path: Path, form: Format) -> Source:
    """Looks at a file without QEMU. Raises NotFound, BadInput, Refused, Foreign or Damaged with the file's name."""
    try:
        # a pipe that nobody writes to would hold up a plain open
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise BadInput("it is not a regular file")
            head = file.read(LONGEST_HEADER)
            disk_bytes = _disk_bytes(head, found.st_size, form)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except CopperError as error:
        raise type(error)(f"{path}: {error.message}", advice=error.advice) from None
    return Source(path.absolute(), form, disk_bytes, digest, _as_seen(found))


def _disk_bytes(head: bytes, file_bytes: int, form: Format) -> int:
    if form == "qcow2":
        size = read_header(head, file_bytes).disk_bytes
    else:
        if what_it_is(head):
            raise not_that(head, "a raw disk")
        if head[510:512] != b"\x55\xaa":
            raise BadInput("it is not a raw disk: it has no boot sector")
        size = file_bytes
    if not LEAST_DISK_BYTES <= size <= MOST_DISK_BYTES:
        raise BadInput(f"its disk has {size} bytes", advice="expected 1 MiB to 16 TiB")
    return -(-size // SECTOR) * SECTOR


def _as_seen(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def check(source: Source, settings: Settings) -> None:
    """Lets qemu-img look for damage inside, and sees that there is room for it. Raises Damaged, NoRoom, CopperError."""
    if source.format == "qcow2":
        found = json.loads(
            _qemu_img(
                ["check", "-f", "qcow2", "--output=json", source.path], CHECK_S, fine=_CHECKED
            )
        )
        if wrong := int(found.get("corruptions", 0)) + int(found.get("check-errors", 0)):
            raise Damaged(
                f"{source.path} is damaged: qemu-img check finds {wrong} errors",
                advice="copy or download it again",
            )
        end, cluster = int(found.get("image-end-offset", 0)), _cluster_bytes(source)
        if end - cluster >= source.seen[2]:
            raise Damaged(
                f"{source.path} is cut short: {end} bytes are used, the file has {source.seen[2]}",
                advice="copy or download it again",
            )
    measured = _qemu_img(
        ["measure", "-f", source.format, "-O", "qcow2", "--output=json", source.path], CHECK_S
    )
    check_room(
        settings.state_dir,
        settings.keep_disk_mib,
        int(json.loads(measured)["required"]),
        f"a copy of {source.path.name}",
    )


def _cluster_bytes(source: Source) -> int:
    with source.path.open("rb") as file:
        return read_header(file.read(LONGEST_HEADER), source.seen[2]).cluster_bytes


def convert(source: Source, target: Path, disk_bytes: int) -> None:
    """Writes the disk as a qcow2 of ours, over what is there, and makes it as large as asked for.

    Raises NoRoom, Refused (it has no boot loader for a BIOS), Conflict (it changed since it was looked at).
    """
    target.unlink(missing_ok=True)
    _qemu_img(["convert", "-f", source.format, "-O", "qcow2", source.path, target], CONVERT_S)
    if _as_seen(source.path.stat()) != source.seen:
        raise Conflict(f"{source.path} changed while it was read")
    if disk_bytes > source.disk_bytes:
        _qemu_img(["resize", "-q", "-f", "qcow2", target, str(disk_bytes)], CHECK_S)
    check_boot_sector(_first_sector(target))


def _first_sector(disk: Path) -> bytes:
    sector = disk.with_name("sector")
    try:
        names = [f"if={disk}", f"of={sector}"]
        _qemu_img(["dd", "-f", "qcow2", "-O", "raw", f"bs={SECTOR}", "count=1", *names], CHECK_S)
        return sector.read_bytes()
    finally:
        sector.unlink(missing_ok=True)


def check_boot_sector(sector: bytes) -> None:
    """Refuses a disk that a BIOS cannot start: no signature, or no program where one has to be."""
    if len(sector) < SECTOR or sector[510:512] != b"\x55\xaa":
        raise Refused("the disk has no boot sector", advice="is it the disk of a whole machine?")
    if not any(sector[:440]):
        raise Refused(
            "the disk boots by UEFI only, and Copper's machines have a BIOS",
            advice="take the distribution's image for BIOS, or for both",
        )


def _qemu_img(argv: list[str | Path], timeout: float, fine: tuple[int, ...] = (0,)) -> str:
    limited: list[str | Path] = ["prlimit", f"--as={QEMU_IMG_BYTES}", "--core=0", "qemu-img"]
    return run([*limited, *argv], called="qemu-img", timeout=timeout, fine=fine)
