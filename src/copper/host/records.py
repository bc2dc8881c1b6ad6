"""What is written down of each VM, so that a new host agent finds it again."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Protocol

from copper.model.api import VmLimits
from copper.model.errors import NoRoom
from copper.model.machine import Identity, Record
from copper.model.networks import Exposure

log = logging.getLogger(__name__)


class VmRecord(Record):
    """What a new host agent needs to find a VM again. Written before the VM runs."""

    identity: Identity
    template: str
    unit: str
    disks: list[Path]
    ready_ms: float = 0
    paused: bool = False
    paused_for: str = ""  # why, when nobody asked for it
    limits: VmLimits = VmLimits()
    reserved_bytes: int = 0
    began: float = 0  # seconds since 1970
    exposure: Exposure | None = None
    machine_id: str = ""
    ssh_host_key: str = ""


class Records(Protocol):
    """The records of one host's VMs."""

    def write(self, record: VmRecord) -> None:
        """Replaces a VM's record, whole or not at all. Raises NoRoom."""

    def remove(self, name: str) -> None:
        """Of no effect when there is none."""

    def all(self) -> list[VmRecord]:
        """All VMs that were written down."""


class FileRecords:
    """A file for each VM, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, record: VmRecord) -> None:
        name = record.identity.name
        fresh = self._folder / f".{name}.new"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            fresh.write_text(record.model_dump_json())
            fresh.rename(self._folder / f"{name}.json")
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise NoRoom(f"VM {name} cannot be written down: {error.strerror}") from error

    def remove(self, name: str) -> None:
        (self._folder / f"{name}.json").unlink(missing_ok=True)

    def all(self) -> list[VmRecord]:
        return read_records(self._folder)


def read_records(folder: Path) -> list[VmRecord]:
    """All VMs that were written down. A record that cannot be read is set aside and said."""
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(VmRecord.model_validate_json(path.read_bytes()))
        except (OSError, ValueError) as error:
            log.error("the record %s cannot be read and is set aside: %s", path, error)
            with contextlib.suppress(OSError):
                path.rename(path.with_suffix(".damaged"))
    return records
