"""What a VM's process has used, as the kernel counts it: memory, processor time, disk.

Three small files of /proc, 0.1 ms in all. Memory that is a process's alone is RssAnon + VmSwap of its status: it is
what smaps_rollup adds up from every mapping, at a tenth of the price. The disk's bytes are those that the process
asked storage for: reads that were not in the host's cache, and pages that it made the host write.
"""

from __future__ import annotations

import collections
import os
import time
from pathlib import Path

from copper.host.hypervisor import Machine, Used
from copper.model.api import VmUse
from copper.model.machine import Identity
from copper.vmm.alive import own_bytes

KEEP_ENDED_S = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


def used_by(pid: int, proc: Path = Path("/proc")) -> Used | None:
    """What this process has used since it began, and holds now; None when it is gone.

    A process that has ended and was not waited for yet still says what it used.
    """
    folder = proc / str(pid)
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        counts = dict(line.split(": ") for line in (folder / "io").read_text().splitlines())
        read, written = int(counts["read_bytes"]), int(counts["write_bytes"])
    except (OSError, KeyError):
        return None
    return Used(
        own_bytes=own_bytes(pid, proc),
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS,
        disk_read_bytes=read,
        disk_written_bytes=written,
    )


def vm_use(identity: Identity, machine: Machine) -> VmUse:
    """One VM's part of a host's report: its machine's last counters when it has just ended."""
    used = machine.used()
    return VmUse(
        name=identity.name,
        cluster=identity.cluster,
        nominal_bytes=machine.shape.memory_bytes,
        shared_bytes=machine.shared_bytes,
        own_bytes=used.own_bytes,
        cpu_s=used.cpu_s,
        disk_read_bytes=used.disk_read_bytes,
        disk_written_bytes=used.disk_written_bytes,
        process=machine.unit,
    )


class LatelyEnded:
    """The last counters of VMs that ended in the last minute: their last increments are not lost."""

    def __init__(self) -> None:
        self._ended: collections.deque[tuple[float, VmUse]] = collections.deque()

    def add(self, use: VmUse) -> None:
        self._ended.append((time.monotonic(), use))

    def all(self) -> list[VmUse]:
        while self._ended and self._ended[0][0] < time.monotonic() - KEEP_ENDED_S:
            self._ended.popleft()
        return [use for _, use in self._ended]
