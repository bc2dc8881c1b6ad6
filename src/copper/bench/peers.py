"""The peers: the same guest without a fork, booted, or loaded from a snapshot by a new QEMU.

All get the same machine as Copper's VMs, but ordinary memory and no preloaded library.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient, QMPError

from copper.bench.calls import IDENTITY, vmid_in
from copper.bench.place import Template, processor_seconds
from copper.host.guest_port import GuestPort
from copper.image.disks import write_overlay
from copper.model.errors import CopperError, NoRoom, TimedOut
from copper.model.machine import Identity
from copper.net.addresses import ipv4_of
from copper.vmm.argv import MACHINE_OPTIONS, TCG_CACHE_MIB
from copper.vmm.capabilities import Qemu
from copper.vmm.qmp import disk_options

BOOT_S = 180.0
LOAD_S = 120.0
OFF_S = 60.0
SNAPSHOT = "bench"
QUIET_S = 60.0
QUIET_WINDOW_S = 0.5
QUIET_SHARE = 0.12  # of a processor, as a template's guest must have come to before it is frozen
QUIET_WINDOWS = 3


@dataclasses.dataclass
class Running:
    """A peer's QEMU and the host's end of its guest's channel."""

    process: subprocess.Popen[bytes]
    port: GuestPort
    monitor_path: Path
    started: float  # time.perf_counter() just before it was


class Peers:
    """What one guest's peers need: a disk that was booted before, and one with a snapshot in it."""

    def __init__(self, qemu: Qemu, template: Template, folder: Path) -> None:
        self._qemu = qemu
        self._template = template
        self._folder = folder
        self._name = template.guest.image
        self.settled = folder / f"{self._name}-settled.qcow2"
        self._snapshot = folder / f"{self._name}-snapshot.qcow2"
        self._copies: list[Path] = []

    async def settle(self) -> None:
        """The guest's first boot, which does more than later ones, and an orderly end. Raises CopperError."""
        write_overlay(self.settled, self._template.built.disk, self._template.built.disk_bytes)
        async with self._run(self.settled) as vm:
            await vm.port.wait_hello(BOOT_S)
            await greet(vm.port)
            await vm.port.exec(["/sbin/poweroff"])
            await _ended(vm.process, OFF_S)

    async def cold_boot(self) -> float:
        """Milliseconds from QEMU's start to the agent's first word. Raises CopperError."""
        with self._cold_disk(self.settled) as disk:
            async with self._run(disk) as vm:
                await vm.port.wait_hello(BOOT_S)
                return (time.perf_counter() - vm.started) * 1000

    @contextlib.asynccontextmanager
    async def booted(self) -> AsyncIterator[Running]:
        """The guest's first boot, as its template's was, up to a quiet guest; gone at the end. Raises CopperError."""
        with self._cold_disk(self._template.built.disk) as disk:
            async with self._run(disk) as vm:
                await vm.port.wait_hello(BOOT_S)
                await greet(vm.port)
                await quiet(vm.process.pid)
                yield vm

    @contextlib.contextmanager
    def _cold_disk(self, under: Path) -> Iterator[Path]:
        """An empty overlay, for one boot."""
        disk = self._folder / f"{self._name}-cold.qcow2"
        disk.unlink(missing_ok=True)
        write_overlay(disk, under, self._template.built.disk_bytes)
        try:
            yield disk
        finally:
            disk.unlink(missing_ok=True)

    async def snapshot(self) -> None:
        """Boots the guest once, waits until it is quiet, and has QEMU store it. Raises CopperError."""
        write_overlay(self._snapshot, self.settled, self._template.built.disk_bytes)
        async with self._run(self._snapshot) as vm:
            await vm.port.wait_hello(BOOT_S)
            await quiet(vm.process.pid)
            said = await _monitor(vm.monitor_path, f"savevm {SNAPSHOT}")
            if said:
                raise CopperError(f"savevm: {said}")

    async def load(self) -> float:
        """Milliseconds from QEMU's start to the guest's first answer, as a clone gives it. Raises CopperError."""
        async with self._run(self._snapshot, "-loadvm", SNAPSHOT) as vm:
            await greet(vm.port)
            return (time.perf_counter() - vm.started) * 1000

    async def copy_snapshot(self, count: int) -> None:
        """A disk with the snapshot for each of so many: QEMU loads none through an overlay. Raises CopperError."""
        for number in range(count):
            disk = self._folder / f"{self._name}-snapshot-{number}.qcow2"
            try:
                shutil.copyfile(self._snapshot, disk)
            except OSError as error:
                for copy in (disk, *self._copies):  # others need the room
                    copy.unlink(missing_ok=True)
                raise NoRoom(f"no copies of the snapshot: {error.strerror}") from error
            self._copies.append(disk)

    async def load_many(self) -> float:
        """Milliseconds from the first QEMU's start until the last guest has answered a request, as clones do.

        All of the copied snapshots at once. Raises CopperError.
        """
        async with contextlib.AsyncExitStack() as undo:
            started = time.perf_counter()
            running = [
                await undo.enter_async_context(self._run(disk, "-loadvm", SNAPSHOT))
                for disk in self._copies
            ]
            answers = [_answer(vm.port, number) for number, vm in enumerate(running)]
            return (max(await asyncio.gather(*answers)) - started) * 1000

    @contextlib.asynccontextmanager
    async def _run(self, disk: Path, *more: str) -> AsyncIterator[Running]:
        """Starts a QEMU whose processors run at once; it is gone at the end."""
        with contextlib.ExitStack() as undo:
            # the path of a socket may not be long
            sockets = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="cu-")))
            fds = []
            for name in ("qmp", "port"):
                listening = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                listening.bind(str(sockets / name))
                listening.listen(2)
                fds.append(listening.fileno())
            said = disk.with_suffix(".stderr")
            argv = self._argv(disk, *fds)
            started = time.perf_counter()
            process = _spawn([*argv, *more], said, fds)
            undo.callback(process.wait)
            undo.callback(process.kill)
            # accepted when QEMU gets so far; what is said until then waits
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            sock.setblocking(False)
            sock.connect(str(sockets / "port"))
            port = GuestPort(sock)
            try:
                yield Running(process, port, sockets / "qmp", started)
            except CopperError as error:
                last = said.read_text(errors="replace").strip().splitlines()[-1:]
                raise CopperError("; ".join([error.message, *last])[:300]) from error
            finally:
                await port.close()

    def _argv(self, disk: Path, qmp: int, port: int) -> list[str]:
        built, needs = self._template.built, self._template.manifest.needs
        shape = self._template.manifest.shape
        accel = "kvm" if needs.accelerator == "kvm" else f"tcg,tb-size={TCG_CACHE_MIB}"
        options = disk_options("disk", disk)
        blockdev = ",".join(f"{key}={value}" for key, value in _flat(options))
        return [
            *(self._qemu.path, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-name", self._name),
            *("-machine", f"{needs.machine},{MACHINE_OPTIONS}"),
            *("-accel", accel),
            *("-cpu", needs.processor.split(" ")[0]),
            *("-smp", str(shape.cpus), "-m", str(shape.memory_mib)),
            *("-rtc", "base=utc,clock=host"),
            *("-chardev", f"socket,id=qmp,fd={qmp},server=on,wait=off"),
            *("-mon", "chardev=qmp,mode=control"),
            *("-serial", "null"),
            *("-chardev", f"socket,id=port,fd={port},server=on,wait=off"),
            *("-device", "virtio-serial-pci,id=serial,max_ports=4"),
            *("-device", "virtserialport,bus=serial.0,chardev=port,name=org.copper.agent"),
            *("-blockdev", blockdev),
            *("-device", "virtio-blk-pci,drive=disk,write-cache=on"),
            *("-kernel", str(built.kernel), "-initrd", str(built.initrd)),
            *("-append", built.cmdline),
        ]


async def greet(port: GuestPort, vmid: int = 0) -> None:
    """Tells a guest who it is, up to its answer. Raises CopperError."""
    identity = Identity(cluster="peer", vmid=vmid, name=f"peer-{vmid}", ip=ipv4_of(vmid))
    await port.begin(identity.model_dump(), "boot", deadline=LOAD_S)


async def _answer(port: GuestPort, vmid: int) -> float:
    """When a guest that was told who it is has said so to a request besides: as calls.answered asks clones."""
    await greet(port, vmid)
    text, at = b"", 0.0
    async with await port.pull(IDENTITY) as file:
        async for _, piece in file:
            text += piece
            at = time.perf_counter()
    if vmid_in(text) != vmid:
        raise CopperError(f"peer-{vmid} says that it is another")
    return at


def _spawn(argv: list[str], said: Path, fds: list[int]) -> subprocess.Popen[bytes]:
    with said.open("wb") as stderr:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=fds,
            start_new_session=True,  # a Ctrl-C is the bench's, which ends it
        )


def _flat(options: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """QEMU's options as keys with dots."""
    found: list[tuple[str, str]] = []
    for key, value in options.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{key}.")
        else:
            text = ("on" if value else "off") if isinstance(value, bool) else str(value)
            found.append((prefix + key, text.replace(",", ",,")))
    return found


async def _ended(process: subprocess.Popen[bytes], deadline_s: float) -> None:
    pidfd = os.pidfd_open(process.pid)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(pidfd, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), deadline_s)
    except TimeoutError:
        raise TimedOut(f"the guest did not power off within {deadline_s:g} s") from None
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


async def quiet(pid: int) -> None:
    """Returns when this QEMU's guest rests, as its template did. Raises TimedOut."""
    deadline = time.monotonic() + QUIET_S
    in_a_row = 0
    used, since = processor_seconds(pid), time.monotonic()
    while in_a_row < QUIET_WINDOWS:
        if time.monotonic() > deadline:
            raise TimedOut(f"the guest was not quiet within {QUIET_S:g} s")
        await asyncio.sleep(QUIET_WINDOW_S)
        now_used, now = processor_seconds(pid), time.monotonic()
        in_a_row = in_a_row + 1 if (now_used - used) / (now - since) < QUIET_SHARE else 0
        used, since = now_used, now


async def _monitor(path: Path, line: str) -> str:
    """One line to QEMU's human monitor: snapshots inside of a disk are asked for there. Gives what it says."""
    client = QMPClient(SNAPSHOT)
    try:
        await client.connect(str(path))
        said = await client.execute("human-monitor-command", {"command-line": line})
        return str(said).strip()
    except QMPError as error:
        raise CopperError(f"{line}: {error}") from error
    finally:
        with contextlib.suppress(QMPError, OSError, EOFError):
            await client.disconnect()
