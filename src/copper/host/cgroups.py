"""Control groups: one per VM, `copper/INSTANCE/VM`, by which the kernel holds it to its processors and its memory.

Version 1 and 2 are both in use (host.cgroup_layout). INSTANCE is a hash of the run directory, so that two Coppers of
one host do not meet. Version 1's groups lie below the group that the agent itself is in: what bounds the agent bounds
its VMs. In version 2 a group that has processes cannot have groups with controllers below it, so that they lie at the
top of what is mounted; a VM outlives the service that started it.

**What a memory limit counts.** The kernel charges a page to the group of whoever touches it first, and a charge does
not move. A layer's pages are charged to the agent that loaded it, or to the VM that was frozen into it (`shmem` in its
group). What a standby wrote before it became a VM, some 20 MiB, is charged to the agent. So the group of a clone counts
the pages that it wrote, and what the kernel needs for it: page tables, sockets, 1.4 MiB for a `micro` that is busy, and
cache of its disk, which the kernel gives up before it kills. `VmLimits.own_bytes` means what `own_bytes` of a VM shows,
QEMU included, therefore the limit that is written is

    own_bytes - what of it is charged elsewhere + KERNEL_BYTES + memory / 256 + layers charged here

and none while the VM is being frozen, for a layer grows then.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import hashlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from copper.host.cgroup_layout import CONTROLLERS, Layout, find_layout, groups_in
from copper.model.api import VmLimits
from copper.model.errors import Refused
from copper.model.machine import Shape

KERNEL_BYTES = 16 << 20
PERIOD_US = 100_000
FIRST = 64  # times the weight of a VM that has begun: one that begins among many that are busy is soon there
MOST_SHARES = 262_144  # that version 1 takes
TRIES = 20  # an ended process leaves its group a moment after it is gone
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Group:
    """A VM's group: its process, its folders (that of memory last), and what the kernel may need for it."""

    pid: int
    folders: tuple[Path, ...]
    cpus: int
    kernel_bytes: int
    is_copy: bool = False  # most of what its process has is also another's


def instance_of(run_dir: Path) -> str:
    """The name of this Copper among those of the host."""
    return hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:10]


class Groups:
    """The groups of one host agent's VMs. Without a usable layout nothing is limited, and `why` says so."""

    def __init__(self, run_dir: Path, layout: Layout | None, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._below = Path("copper") / instance_of(run_dir)
        self._layout = layout
        self.why = "" if layout else "no cgroups with cpu and memory are mounted"
        self._groups: dict[str, _Group] = {}
        self._turn = threading.Lock()  # a folder is not removed while a group is made in it
        if layout is not None:
            try:
                self._open(layout)
                self._close(layout.roots())
            except OSError as error:
                self._layout = None
                self.why = f"cgroups cannot be written: {error.filename}: {error.strerror}"
        if self.why:
            log.warning("VMs run without limits: %s", self.why)

    @property
    def available(self) -> bool:
        return self._layout is not None

    def _open(self, layout: Layout) -> None:
        for root in layout.roots():
            (root / self._below).mkdir(parents=True, exist_ok=True)
        # all VMs together weigh as many processes as keep the host busy, not as a single one
        cpus = os.cpu_count() or 1
        for group in ("copper", self._below):
            if layout.version == 1:
                _write(layout.roots()[0] / group / "cpu.shares", str(2048 * cpus))
            else:
                _write(layout.roots()[0] / group / "cpu.weight", str(min(10_000, 200 * cpus)))
        if layout.version == 2:
            (root,) = layout.roots()
            for folder in (root, root / "copper", root / self._below):
                _write(folder / "cgroup.subtree_control", "+cpu +memory")

    def check(self, limits: VmLimits) -> None:
        """Raises Refused when this host cannot hold a VM to such limits."""
        if not self.available and limits != VmLimits():
            raise Refused(
                f"this host cannot limit a VM: {self.why}",
                advice="run Copper where it may write cgroups",
            )

    def put(self, vm: str, pid: int, shape: Shape, *, is_copy: bool = False) -> None:
        """Moves a process and its threads into the group of this VM. Until `weigh` it comes before other VMs.

        Blocks for up to 20 ms while the kernel does it. A host that cannot goes on without, and says so.
        """
        if self._layout is None:
            return
        folders = tuple(root / self._below / vm for root in self._layout.roots())
        self._groups[vm] = _Group(pid, folders, shape.cpus, _kernel_bytes(shape), is_copy)
        try:
            with self._turn:
                self._open(self._layout)
                for folder in folders:
                    folder.mkdir(exist_ok=True)
            self._write_weight(self._groups[vm], FIRST)
            for folder in folders:
                _write(folder / "cgroup.procs", str(pid))
        except OSError as error:
            if error.errno != errno.ESRCH:  # it has just ended: its watcher says so
                log.warning("VM %s has no cgroup: %s: %s", vm, error.filename, error.strerror)

    def weigh(self, vm: str) -> None:
        """From now on this VM has processor time by its processors, as others have."""
        group = self._groups.get(vm)
        if group is not None:
            try:
                self._write_weight(group, 1)
            except OSError as error:
                log.warning("VM %s keeps coming first: %s", vm, error.strerror)

    def _write_weight(self, group: _Group, times: int) -> None:
        weight = times * group.cpus
        if self._version == 1:
            _write(group.folders[0] / "cpu.shares", str(min(MOST_SHARES, 1024 * weight)))
        else:
            _write(group.folders[0] / "cpu.weight", str(min(10_000, 100 * weight)))

    def put_back(self, pid: int) -> None:
        """Moves the copy of a VM's process that is no VM out of that VM's group, to where the agent is. Blocks."""
        if self._layout is None:
            return
        own = groups_in(self._proc / "self" / "cgroup")
        folders = (self._layout.mounts[name] / own.get(name, "") for name in ("cpu", "memory"))
        for folder in dict.fromkeys(folders):
            try:
                _write(folder / "cgroup.procs", str(pid))
            except OSError as error:
                if error.errno != errno.ESRCH:
                    log.warning("process %d stays in a VM's cgroup: %s", pid, error.strerror)

    def charged(self, vm: str) -> int | None:
        """Anonymous memory that this VM's group was charged for, swapped out or not; None: it has no group."""
        group = self._groups.get(vm)
        fields = read_fields(group.folders[-1] / "memory.stat") if group is not None else {}
        if self._layout is None or not fields:
            return None
        if self._version == 1:
            return fields.get("rss", 0) + fields.get("swap", 0)
        assert group is not None
        with contextlib.suppress(OSError, ValueError):
            fields["swap"] = int((group.folders[-1] / "memory.swap.current").read_text())
        return fields.get("anon", 0) + fields.get("swap", 0)

    def touched(self, vm: str) -> int | None:
        """All that this VM's group was charged for, cache of its disk too: one number, which the kernel has ready."""
        group = self._groups.get(vm)
        if self._layout is None or group is None:
            return None
        name = "memory.usage_in_bytes" if self._version == 1 else "memory.current"
        try:
            return int((group.folders[-1] / name).read_text())
        except (OSError, ValueError):
            return None

    def find(self, vm: str, pid: int, shape: Shape, *, is_copy: bool = False) -> None:
        """The group of a VM of an earlier agent, which may lie elsewhere; a VM without one gets one."""
        if self._layout is None:
            return
        found = groups_in(self._proc / str(pid) / "cgroup")
        ours = str(self._below / vm)
        if not all(found.get(name, "").endswith(ours) for name in CONTROLLERS):
            self.put(vm, pid, shape, is_copy=is_copy)
            return
        folders = tuple(
            dict.fromkeys(self._layout.mounts[name] / found[name] for name in ("cpu", "memory"))
        )
        self._groups[vm] = _Group(pid, folders, shape.cpus, _kernel_bytes(shape), is_copy)

    def hold(self, vm: str, limits: VmLimits, *, again: bool = False) -> None:
        """Writes a VM's limits, as they are now; None is no limit. Raises Refused, nothing changed.

        `again`: they were its limits before; memory that it has beyond them is left to it.
        """
        self.check(limits)
        group = self._groups.get(vm)
        if self._layout is None or group is None:
            return
        try:
            most = self._most(vm, group, limits.own_bytes, again)
            self._hold_cpu(group.folders[0], limits.cpus)
            self._hold_memory(group.folders[-1], most)
        except OSError as error:
            raise Refused(f"VM {vm} cannot be limited: {error.strerror}") from error

    def _most(self, vm: str, group: _Group, own_bytes: int | None, again: bool) -> int | None:
        """Bytes to be written for a limit of `own_bytes`. Raises Refused below what it has."""
        if own_bytes is None:
            return None
        copied = self.charged(vm) if group.is_copy else None
        now = self._proc_bytes(group.pid) if copied is None else copied
        if own_bytes < now and not again:
            raise Refused(
                f"VM {vm} has {now >> 20} MiB of its own already, a limit of {own_bytes >> 20}"
                " would end it"
            )
        charged = read_fields(group.folders[-1] / "memory.stat")
        elsewhere = max(0, now - charged.get("rss", charged.get("anon", 0)))
        return max(own_bytes, now) - elsewhere + group.kernel_bytes + charged.get("shmem", 0)

    def _proc_bytes(self, pid: int) -> int:
        fields = read_fields(self._proc / str(pid) / "status")
        return (fields.get("RssAnon:", 0) + fields.get("VmSwap:", 0)) << 10

    def _hold_cpu(self, folder: Path, cpus: float | None) -> None:
        quota = None if cpus is None else max(1000, round(cpus * PERIOD_US))
        if self._version == 1:
            _write(folder / "cpu.cfs_period_us", str(PERIOD_US))
            _write(folder / "cpu.cfs_quota_us", str(-1 if quota is None else quota))
        else:
            _write(folder / "cpu.max", f"{'max' if quota is None else quota} {PERIOD_US}")

    def _hold_memory(self, folder: Path, most: int | None) -> None:
        if self._version == 1:
            self._hold_memory_v1(folder, most)
            return
        _write(folder / "memory.max", "max" if most is None else str(most))
        if (folder / "memory.swap.max").exists():
            _write(folder / "memory.swap.max", "max" if most is None else "0")

    def _hold_memory_v1(self, folder: Path, most: int | None) -> None:
        alone, with_swap = folder / "memory.limit_in_bytes", folder / "memory.memsw.limit_in_bytes"
        order = [alone, with_swap]
        # the kernel wants memory <= memory and swap at every instant
        if most is None or (with_swap.exists() and most > int(with_swap.read_text())):
            order.reverse()
        for path in order:
            if path == alone or path.exists():
                _write(path, "-1" if most is None else str(most))

    @property
    def _version(self) -> int:
        assert self._layout is not None
        return self._layout.version

    @contextlib.contextmanager
    def lifted(self, vm: str, limits: VmLimits) -> Iterator[None]:
        """Within it a VM's memory is not limited: its layers, charged to it, may grow."""
        if self._layout is None or limits.own_bytes is None or vm not in self._groups:
            yield
            return
        self.hold(vm, limits.model_copy(update={"own_bytes": None}))
        try:
            yield
        finally:
            with contextlib.suppress(Refused):  # it ended meanwhile
                self.hold(vm, limits, again=True)

    def killed_for_memory(self, vm: str) -> bool:
        """Whether the kernel killed this VM's QEMU: it wanted more memory than its limit, or than the host has."""
        if self._layout is None or vm not in self._groups:
            return False
        name = "memory.oom_control" if self._version == 1 else "memory.events"
        return read_fields(self._groups[vm].folders[-1] / name).get("oom_kill", 0) > 0

    async def remove(self, vm: str) -> None:
        """Removes the group of a VM that has ended; a copy of its process that is no VM is still in it, perhaps."""
        group = self._groups.pop(vm, None)
        for folder in group.folders if group else ():
            with contextlib.suppress(OSError):
                for pid in (folder / "cgroup.procs").read_text().split():
                    await asyncio.to_thread(self.put_back, int(pid))
            await self.remove_folder(folder)

    async def remove_folder(self, folder: Path) -> bool:
        """Removes one of those that `found` says; false when processes stay in it."""
        for _ in range(TRIES):
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                await asyncio.sleep(0.005)
                continue
            self._close([folder.parents[2]])
            return True
        log.warning("the cgroup %s is still in use", folder)
        return False

    def found(self) -> list[Path]:
        """Every VM's group of this instance, wherever an agent of it made one."""
        if self._layout is None:
            return []
        groups = []
        for mount in dict.fromkeys(self._layout.mounts.values()):
            for folder, _, _ in os.walk(mount):
                if Path(folder).parts[-2:] == self._below.parts:
                    groups += [path for path in Path(folder).iterdir() if path.is_dir()]
        return sorted(groups)

    def _close(self, roots: Iterable[Path]) -> None:
        """Removes the folders above VMs' groups where none is left."""
        with self._turn:
            for root in roots:
                for folder in (root / self._below, root / "copper"):
                    with contextlib.suppress(OSError):
                        folder.rmdir()


def find_groups(run_dir: Path) -> Groups:
    """The groups of this host for a Copper with this run directory."""
    return Groups(run_dir, find_layout())


def sweep(run_dir: Path) -> None:
    """Removes the groups of a Copper that is not there any more and whose VMs have ended."""
    layout = find_layout()
    for root in layout.roots() if layout is not None else ():
        ours = root / "copper" / instance_of(run_dir)
        for folder in (*ours.glob("*/"), ours, root / "copper"):
            with contextlib.suppress(OSError):  # a process is in it, or another Copper's group
                folder.rmdir()


def read_fields(path: Path) -> dict[str, int]:
    """A file of `name number` lines, such as memory.stat or /proc/PID/status; empty when it cannot be read."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdigit()}


def _kernel_bytes(shape: Shape) -> int:
    return KERNEL_BYTES + shape.memory_bytes // 256  # twice the page tables of all of its memory


def _write(path: Path, text: str) -> None:
    with path.open("w") as out:
        out.write(text)
