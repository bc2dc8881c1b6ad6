"""A process told from every later one with the same number, what it holds, and QEMUs that nobody knows."""

from __future__ import annotations

import dataclasses
import os
import re
import select
import signal
from pathlib import Path

from copper.model.errors import NotFound


@dataclasses.dataclass(frozen=True)
class Alive:
    """A process, told from every later one with the same number."""

    pid: int
    start_time: int  # clock ticks since the host's boot: field 22 of /proc/PID/stat
    executable: str

    @classmethod
    def of(cls, pid: int) -> Alive:
        """Raises NotFound when there is no such process, or it is a zombie."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if fields[0] in "ZX":
                raise NotFound(f"process {pid} has ended")
            return cls(pid, int(fields[19]), str(Path(f"/proc/{pid}/exe").readlink()))
        except OSError:
            raise NotFound(f"there is no process {pid}") from None

    @property
    def is_there(self) -> bool:
        try:
            return Alive.of(self.pid) == self
        except NotFound:
            return False

    def end(self) -> None:
        """Kills this very process, if it is still there, and waits until it is gone."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.is_there:  # asked after the descriptor was made: it cannot be another's now
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], 10)
        finally:
            os.close(pidfd)


def own_bytes(pid: int, proc: Path = Path("/proc")) -> int:
    """Memory that is a process's alone: what it wrote, in the guest and in QEMU, swapped out or not.

    A layer's pages are not counted: they are the image's, even while one VM alone maps them.
    """
    try:
        text = (proc / str(pid) / "status").read_text()
    except OSError:
        return 0
    return sum(int(kib) for kib in re.findall(r"^(?:RssAnon|VmSwap):\s+(\d+)", text, re.M)) << 10


def shared_out_bytes(pid: int, proc: Path = Path("/proc")) -> int:
    """As `own_bytes`, but of a page that several processes have only this one's part: 4 ms, for all is looked at."""
    try:
        text = (proc / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(kib) for kib in re.findall(r"^(?:Pss_Anon|SwapPss):\s+(\d+)", text, re.M)) << 10


def strays(run_dir: Path, known: set[str]) -> list[Alive]:
    """QEMU processes of this run directory that are none of the known units, by their command lines."""
    units = {folder.name for folder in (run_dir / "q").glob("*")} - known
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0")
            name = argv[argv.index(b"-name") + 1].decode()
            if name.removeprefix("copper-") in units and name.startswith("copper-"):
                found.append(Alive.of(int(entry.name)))
        except (OSError, ValueError, IndexError, NotFound):
            continue
    return found
