"""What a build gives, and how it is written down beside its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from copper.model.errors import Foreign

# Of built.json. A newer one is refused.
FORMAT = 1
RECORD = "built.json"
_PATHS = ("kernel", "initrd", "disk")


@dataclass(frozen=True)
class Built:
    """A bootable guest: boot `disk` (virtio-blk) with `kernel`, `initrd` and `cmdline`.

    The files are in the build cache, never change, and are read-only: give each VM an overlay over
    `disk`.
    """

    recipe: str
    digest: str  # of everything that went in: 64 hexadecimal digits
    kernel: Path
    initrd: Path
    disk: Path  # qcow2
    disk_bytes: int  # as the guest sees it
    cmdline: str
    memory_mib: int  # the recipe's default
    packages: Mapping[str, str]  # name: version, the kernel's included

    def save(self) -> None:
        """Write the record beside the files."""
        record = asdict(self) | {name: getattr(self, name).name for name in _PATHS}
        sizes = {name: getattr(self, name).stat().st_size for name in _PATHS}
        text = json.dumps({"format": FORMAT, "sizes": sizes} | record, indent=2)
        (self.disk.parent / RECORD).write_text(text + "\n")


def load(folder: Path) -> Built | None:
    """The build in a folder; None when there is none, or when it lacks a file or part of one.

    Raises Foreign when a newer Copper wrote it.
    """
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text())
        if record["format"] > FORMAT:
            raise Foreign(
                f"{folder / RECORD} has format {record['format']}",
                advice=f"this Copper reads formats up to {FORMAT}",
            )
        paths = {name: folder / record[name] for name in _PATHS}
        if any(path.stat().st_size != record["sizes"][name] for name, path in paths.items()):
            return None
        return Built(**{f.name: record[f.name] for f in fields(Built)} | paths)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
