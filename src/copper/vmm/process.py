"""One QEMU process: born, spoken to, found again, ended.

Its states are `starting`, `ready` (its sockets are connected) and `ended`. It outlives the host agent; what is
written in its folder is enough to find it again, and to know it from another process with its number.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from copper.model.errors import CopperError, NotFound
from copper.model.machine import Needs, Shape
from copper.model.settings import Settings
from copper.vmm.argv import Boot, Inherited, command_line
from copper.vmm.layers import LayerControl
from copper.vmm.qmp import Monitor
from copper.wire import trace
from copper.wire.undo import undo

SOCKETS = ("qmp", "port", "console", "layers")
STARTING: set[str] = set()  # units of this process's QEMUs that nobody has yet
OOM_SCORE = 500  # of 1000: a kernel without memory chooses a QEMU, and never the host agent


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


class QemuProcess:
    """A QEMU and the connections to it. Made by `start` or `adopt`; ended by `end`."""

    def __init__(self, folder: Path, shape: Shape, needs: Needs) -> None:
        self.folder = folder
        self.unit = folder.name
        self.shape = shape
        self.needs = needs
        self.monitor = Monitor(self.unit)
        self.alive: Alive | None = None
        self.ended = asyncio.Event()
        self.on_exit: Callable[[], None] | None = None  # what it used can still be read then
        self._layers: LayerControl | None = None
        self._pidfd = -1

    @property
    def layers(self) -> LayerControl:
        if self._layers is None:
            raise CopperError(f"QEMU {self.unit} is not connected")
        return self._layers

    @property
    def pid(self) -> int:
        if self.alive is None:
            raise CopperError(f"QEMU {self.unit} has not been started")
        return self.alive.pid

    def socket_path(self, name: str) -> Path:
        return self.folder / f"{name}.sock"

    @classmethod
    async def start(
        cls, settings: Settings, shape: Shape, needs: Needs, tap: int, boot: Boot | None = None
    ) -> QemuProcess:
        """Starts a QEMU, its processors stopped: one that boots a kernel, or one that waits for a state.

        `tap` is what its network card is on, until it is given another.
        Raises CopperError with QEMU's own words when it does not come up; nothing is left of it then.
        """
        folder = settings.run_dir / "q" / secrets.token_hex(6)
        folder.mkdir(parents=True)
        process = cls(folder, shape, needs)
        STARTING.add(process.unit)
        try:
            with trace.line(f"QEMU {process.unit}"), trace.span("start"):
                process._spawn(settings, tap, boot)
                await process._connect()
                if boot is None:
                    await process.monitor.await_state()
        except BaseException as error:
            said = process.stderr()
            await undo(process.end())
            if isinstance(error, CopperError) and said:
                raise CopperError(f"QEMU did not start: {said}") from error
            raise
        finally:
            STARTING.discard(process.unit)
        return process

    @classmethod
    async def adopt(cls, folder: Path) -> QemuProcess:
        """Connects to a QEMU that an earlier host agent started. Raises NotFound when it is gone."""
        try:
            written = json.loads((folder / "process.json").read_text())
            process = cls(
                folder,
                Shape.model_validate(written["shape"]),
                Needs.model_validate(written["needs"]),
            )
            process.alive = Alive(**written["alive"])
        except (OSError, ValueError, KeyError, TypeError):
            raise NotFound(f"nothing is known of a QEMU in {folder}") from None
        if not process.alive.is_there:
            raise NotFound(f"QEMU {process.unit} has ended")
        process._watch()
        await process._connect()
        return process

    def _spawn(self, settings: Settings, tap: int, boot: Boot | None) -> None:
        library = settings.native_dir / "libcopper-layers.so"
        if not library.exists():
            raise CopperError(
                f"{library} is missing", advice="build it: native/build, as scripts/demo does"
            )
        qemu = shutil.which(settings.qemu)
        if qemu is None:
            raise CopperError(
                f"there is no {settings.qemu}", advice="install the package qemu-system-x86"
            )
        with contextlib.ExitStack() as undo:
            listening = {name: undo.enter_context(self._listen(name)) for name in SOCKETS}
            ram = os.memfd_create(f"copper-ram-{self.unit}", os.MFD_CLOEXEC)
            undo.callback(os.close, ram)
            os.ftruncate(ram, self.shape.memory_bytes)
            fds = {name: sock.fileno() for name, sock in listening.items()}
            inherited = Inherited(fds["qmp"], fds["port"], fds["console"], ram, tap)
            argv = command_line(
                qemu, f"copper-{self.unit}", self.shape, self.needs, inherited, boot
            )
            environment = {
                "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
                "LD_PRELOAD": str(library),
                "COPPER_LAYERS_RAM": str(ram),
                "COPPER_LAYERS_LISTEN": str(fds["layers"]),
                "COPPER_LAYERS_TAP": str(tap),
                "MALLOC_ARENA_MAX": "1",
            }
            stderr = undo.enter_context((self.folder / "stderr").open("wb"))
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=environment,
                cwd="/",
                pass_fds=[*fds.values(), ram, tap],
                start_new_session=True,
            )
        # reaped by _on_exit, by its pidfd; Popen shall not wait for it as well
        child.returncode = 0
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, child.pid, 0)  # whoever starts it may come before it
        try:
            self.alive = Alive.of(child.pid)
        except NotFound:
            os.waitpid(child.pid, 0)
            raise CopperError(f"QEMU {self.unit} ended at once") from None
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.pid}/oom_score_adj").write_text(str(OOM_SCORE))
        self._watch()
        self._write_down()

    def _write_down(self) -> None:
        assert self.alive is not None
        text = json.dumps(
            {
                "alive": dataclasses.asdict(self.alive),
                "shape": self.shape.model_dump(),
                "needs": self.needs.model_dump(),
            }
        )
        fresh = self.folder / "process.json.new"
        fresh.write_text(text)
        fresh.rename(self.folder / "process.json")

    def _listen(self, name: str) -> socket.socket:
        kind = socket.SOCK_SEQPACKET if name == "layers" else socket.SOCK_STREAM
        sock = socket.socket(socket.AF_UNIX, kind)
        sock.bind(str(self.socket_path(name)))
        sock.listen(4)
        return sock

    async def _connect(self) -> None:
        monitor = asyncio.ensure_future(self.monitor.connect(self.socket_path("qmp")))
        ended = asyncio.ensure_future(self.ended.wait())
        try:
            await asyncio.wait({monitor, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not monitor.done():
                raise CopperError(f"QEMU {self.unit} ended while it started")
            monitor.result()
            self._layers = LayerControl.connect(self.socket_path("layers"))
        finally:
            for task in (monitor, ended):
                task.cancel()
            await asyncio.gather(monitor, ended, return_exceptions=True)

    def _watch(self) -> None:
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            self.ended.set()
            return
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        if self.on_exit is not None:
            self.on_exit()
        # an adopted process is another's child, which reaps it
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._pidfd = -1
        self.ended.set()

    def connect_port(self) -> socket.socket:
        """The host end of the guest agent's channel: connect it before the processors run."""
        return self._connect_stream("port")

    def connect_console(self) -> socket.socket:
        return self._connect_stream("console")

    def _connect_stream(self, name: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.setblocking(False)
        try:
            sock.connect(str(self.socket_path(name)))
        except OSError as error:
            sock.close()
            raise CopperError(f"QEMU's {name} cannot be reached: {error.strerror}") from error
        return sock

    def stderr(self) -> str:
        """QEMU's last words."""
        try:
            lines = (self.folder / "stderr").read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1].removeprefix("qemu-system-x86_64: ")[:300] if lines else ""

    async def end(self) -> None:
        """Ends the process and removes its folder. Returns when its memory is free."""
        if self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            await self.ended.wait()
        if self._layers is not None:
            self._layers.close()
            self._layers = None
        await self.monitor.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def leave(self) -> None:
        """Lets go of the process, which runs on."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._layers is not None:
            self._layers.close()
            self._layers = None
        await self.monitor.close()

    def own_bytes(self) -> int:
        """Memory that is this process's alone, 0 when it is gone."""
        return own_bytes(self.pid)


def own_bytes(pid: int, proc: Path = Path("/proc")) -> int:
    """Memory that is a process's alone: what it wrote, in the guest and in QEMU, swapped out or not.

    A layer's pages are not counted: they are the image's, even while one VM alone maps them.
    """
    try:
        text = (proc / str(pid) / "status").read_text()
    except OSError:
        return 0
    return sum(int(kib) for kib in re.findall(r"^(?:RssAnon|VmSwap):\s+(\d+)", text, re.M)) << 10


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
