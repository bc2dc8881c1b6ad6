"""A peer: the same guest, stored by `virsh save` and brought back by `virsh restore`.

libvirt's QEMU driver runs inside of a virsh of ours and keeps all that it writes in a folder of ours: its embedded mode
(libvirt.org/drvqemu.html), for which there is no daemon and no network. This virsh is not root, in a user namespace of
its own: as root, libvirt would also write to /run and to control groups.

ROOT/etc/qemu.conf   what the driver is not to do
ROOT/guest.xml       the guest, as libvirt describes one
ROOT/port            the socket that the guest's channel connects to
ROOT/...             libvirt's own
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from copper.bench.peers import BOOT_S, LOAD_S, greet, quiet
from copper.bench.place import Template, end_all
from copper.host.guest_port import GuestPort
from copper.image.build.built import Built
from copper.image.disks import write_overlay
from copper.model.errors import CopperError, NotFound, TimedOut
from copper.model.machine import Needs, Shape
from copper.vmm.argv import MACHINE_OPTIONS, TCG_CACHE_MIB
from copper.vmm.capabilities import Qemu

PROGRAMS = ("virsh", "/usr/lib/libvirt/libvirt_iohelper")  # of the two packages
CONFIG = 'security_driver = "none"\nstdio_handler = "file"\n'  # no confinement, no daemon for logs
NOT_ROOT = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
# a program whose orphans are reaped at once: libvirt waits for its QEMU's end, and not every init makes haste
REAPED = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
program = subprocess.Popen(sys.argv[1:])
while os.wait()[0] != program.pid:
    pass
"""
CONNECT_S = 60.0  # the first one asks QEMU what it can do, which takes seconds
END_S = 5.0
PROMPT = b"virsh # "


class Virsh:
    """One guest under libvirt, which runs inside of these methods only: between them it is stored."""

    def __init__(
        self, qemu: Qemu, template: Template, settled: Path, folder: Path, root: Path
    ) -> None:
        """`settled` is a disk that was booted before; `root` will be libvirt's folder, with a short path."""
        self._qemu = qemu
        self._template = template
        self._settled = settled
        self._name = template.guest.image
        self._disk = folder / f"{self._name}-virsh.qcow2"
        self._stored = folder / f"{self._name}.saved"
        self._root = root
        self._port = root / "port"
        self._is_stored = False

    async def prepare(self) -> None:
        """Boots the guest, waits until it is quiet, and stores it. Raises NotFound, CopperError."""
        check_programs()
        (self._root / "etc").mkdir(parents=True, exist_ok=True)
        (self._root / "etc" / "qemu.conf").write_text(CONFIG)
        write_overlay(self._disk, self._settled, self._template.built.disk_bytes)
        described = self._root / "guest.xml"
        manifest, built = self._template.manifest, self._template.built
        written = domain(
            self._name, self._qemu, manifest.shape, manifest.needs, built, self._disk, self._port
        )
        described.write_text(written)
        async with self._shell() as shell:
            async with self._runs(shell, f"create '{described}'", _hello):
                await self._save(shell)

    async def round(self) -> tuple[float, float]:
        """Milliseconds of a restore, up to the guest's first answer, and of the save after it.

        Raises CopperError, and in each later round too: what was stored does not fit the disk any more then.
        """
        if not self._is_stored:
            raise CopperError("the guest was lost in an earlier round")
        self._is_stored = False
        async with self._shell() as shell:
            async with self._runs(shell, f"restore '{self._stored}'", greet) as restored:
                self._stored.unlink()
                return restored, await self._save(shell)

    async def _save(self, shell: Shell) -> float:
        try:
            pid = int((self._root / "run" / "qemu" / f"{self._name}.pid").read_text())
        except (OSError, ValueError):
            raise CopperError("the guest ended") from None
        await quiet(pid)
        started = time.perf_counter()
        await shell.ask(f"save {self._name} '{self._stored}'")
        self._is_stored = True
        return (time.perf_counter() - started) * 1000

    @contextlib.asynccontextmanager
    async def _shell(self) -> AsyncIterator[Shell]:
        """A virsh that is connected; it and all that it started are gone at the end."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", REAPED, *NOT_ROOT),
            *("virsh", "-q", "-c", f"qemu:///embed?root={self._root}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "HOME": str(self._root),
                "LC_ALL": "C",
            },
            start_new_session=True,  # a Ctrl-C is the bench's, which ends it
        )
        try:
            shell = Shell(process)
            await shell.listen("", CONNECT_S)
            yield shell
        finally:
            assert process.stdin is not None
            process.stdin.close()  # which ends it
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), END_S)
            end_all(self._root)
            await process.wait()

    @contextlib.asynccontextmanager
    async def _runs(
        self, shell: Shell, line: str, answer: Callable[[GuestPort], Awaitable[None]]
    ) -> AsyncIterator[float]:
        """The guest that this line starts, its channel connected: milliseconds until it gave this answer."""
        self._port.unlink(missing_ok=True)
        async with contextlib.AsyncExitStack() as undo:
            listening = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listening.setblocking(False)
            listening.bind(str(self._port))
            listening.listen(1)
            started = time.perf_counter()
            done = asyncio.ensure_future(shell.ask(line))
            undo.callback(done.cancel)
            port = GuestPort(await _accepted(listening, done))
            undo.push_async_callback(port.close)
            try:
                await answer(port)
                answered = time.perf_counter()
            except CopperError:
                await asyncio.wait({done}, timeout=LOAD_S)
                if done.done():
                    done.result()  # what virsh says of it says more
                raise
            await done
            yield (answered - started) * 1000


class Shell:
    """A virsh that is told line by line what to do."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, line: str) -> None:
        """Returns when it is done. Raises CopperError with what virsh complains of, TimedOut."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        await self.listen(line, LOAD_S)

    async def listen(self, line: str, deadline_s: float) -> None:
        """Waits until it asks what to do next."""
        assert self._process.stdout is not None
        what = f"virsh {line}".split(" '")[0].strip()
        try:
            async with asyncio.timeout(deadline_s):
                said = await self._process.stdout.readuntil(PROMPT)
        except TimeoutError:
            raise TimedOut(f"{what}: not done within {deadline_s:g} s") from None
        except asyncio.IncompleteReadError as error:
            why = complaint(error.partial.decode(errors="replace"))
            raise CopperError(f"{what}: {why or 'it ended'}") from None
        why = complaint(said.decode(errors="replace"))
        if why:
            raise CopperError(f"{what}: {why}")


def check_programs() -> None:
    """Raises NotFound when one is not installed."""
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise NotFound(
                f"there is no {program}",
                advice="install the packages libvirt-clients and libvirt-daemon",
            )


def complaint(said: str) -> str:
    """What virsh says went wrong, in one line; "" when it says nothing of the kind."""
    found = [
        line.removeprefix("error: ") for line in said.splitlines() if line.startswith("error: ")
    ]
    return ": ".join(found)[:300]


def domain(
    name: str, qemu: Qemu, shape: Shape, needs: Needs, built: Built, disk: Path, port: Path
) -> str:
    """The machine that the other peers have (peers.py), in libvirt's words: a domain's XML."""
    return f"""\
<domain type="{"kvm" if needs.accelerator == "kvm" else "qemu"}" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
  <name>{escape(name)}</name>
  <memory unit="MiB">{shape.memory_mib}</memory>
  <vcpu>{shape.cpus}</vcpu>
  <os>
    <type arch="x86_64" machine={quoteattr(needs.machine)}>hvm</type>
    <kernel>{escape(str(built.kernel))}</kernel>
    <initrd>{escape(str(built.initrd))}</initrd>
    <cmdline>{escape(built.cmdline)}</cmdline>
  </os>
  {_processor(needs)}
  <features><acpi/><apic/>{_cache(needs)}</features>
  <clock offset="utc"/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <devices>
    <emulator>{escape(qemu.path)}</emulator>
    <controller type="usb" model="none"/>
    <memballoon model="none"/>
    <serial type="null"/>
    <controller type="virtio-serial" ports="4">
      <address type="pci" domain="0" bus="0" slot="1" function="0"/>
    </controller>
    <channel type="unix">
      <source mode="connect" path={quoteattr(str(port))}/>
      <target type="virtio" name="org.copper.agent"/>
    </channel>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2" cache="unsafe" discard="unmap"/>
      <source file={quoteattr(str(disk))}/>
      <target dev="vda" bus="virtio"/>
      <address type="pci" domain="0" bus="0" slot="2" function="0"/>
    </disk>
  </devices>
  <qemu:commandline>
    <qemu:arg value="-machine"/>
    <qemu:arg value="{MACHINE_OPTIONS}"/>
  </qemu:commandline>
</domain>
"""


def _processor(needs: Needs) -> str:
    """QEMU's `max,-this,-that`, or the host's own."""
    model, *without = needs.processor.split(" ")[0].split(",")
    mode = {"max": "maximum", "host": "host-passthrough"}[model]
    features = [f'<feature policy="disable" name="{name[1:]}"/>' for name in without]
    return f'<cpu mode="{mode}" check="none">{"".join(features)}</cpu>'


def _cache(needs: Needs) -> str:
    if needs.accelerator == "kvm":
        return ""
    return f'<tcg><tb-cache unit="MiB">{TCG_CACHE_MIB}</tb-cache></tcg>'


async def _hello(port: GuestPort) -> None:
    await port.wait_hello(BOOT_S)


async def _accepted(listening: socket.socket, done: asyncio.Future[None]) -> socket.socket:
    """The connection of the QEMU that is being started. Raises why it was not, TimedOut."""
    loop = asyncio.get_running_loop()
    accepting = asyncio.ensure_future(loop.sock_accept(listening))
    either: list[asyncio.Future[Any]] = [accepting, done]
    await asyncio.wait(either, timeout=LOAD_S, return_when=asyncio.FIRST_COMPLETED)
    if accepting.done():
        return accepting.result()[0]
    accepting.cancel()
    if done.done():
        done.result()
    raise TimedOut(f"no QEMU opened the guest's channel within {LOAD_S:g} s")
