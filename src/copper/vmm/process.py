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
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from copper.model.errors import CopperError, NotFound, TimedOut
from copper.model.machine import Needs, Shape
from copper.model.settings import Settings
from copper.vmm.alive import Alive, own_bytes
from copper.vmm.argv import Boot, Inherited, command_line
from copper.vmm.layers import LayerControl
from copper.vmm.qmp import Monitor
from copper.vmm.seed import Seed, new_unit
from copper.wire import trace
from copper.wire.undo import undo, whole

SOCKETS = ("qmp", "port", "console", "layers")
STARTING: set[str] = set()  # units of this process's QEMUs that nobody has yet
OOM_SCORE = 500  # of 1000: a kernel without memory chooses a QEMU, and never the host agent


class QemuProcess:
    """A QEMU and the connections to it. Made by `start` or `adopt`; ended by `end`."""

    def __init__(self, folder: Path, shape: Shape, needs: Needs, *, is_copy: bool = False) -> None:
        """`is_copy`: much of its memory is also that of the QEMU that it is a copy of."""
        self.folder = folder
        self.is_copy = is_copy
        self.unit = folder.name
        self.shape = shape
        self.needs = needs
        self.monitor = Monitor()
        self.alive: Alive | None = None
        self.ended = asyncio.Event()
        self.on_exit: Callable[[], None] | None = None  # what it used can still be read then
        self._layers: LayerControl | None = None
        self._open: dict[str, socket.socket] = {}  # connections that it was born with
        self._pidfd = -1
        self._signalling = threading.Lock()  # while a number is a pidfd's, it is not another's

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
        process = cls(new_unit(settings.run_dir), shape, needs)
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
                is_copy=bool(written["is_copy"]),
            )
            process.alive = Alive(**written["alive"])
        except (OSError, ValueError, KeyError, TypeError):
            raise NotFound(f"nothing is known of a QEMU in {folder}") from None
        if not process.alive.is_there:
            raise NotFound(f"QEMU {process.unit} has ended")
        process._watch()
        process.go_on()  # an agent that died may have held it
        await process._connect()
        return process

    @classmethod
    async def fork(cls, settings: Settings, seed: Seed, tap: int) -> QemuProcess:
        """A copy of the seed's QEMU on this tap, its processors stopped. Raises CopperError; nothing is left then."""
        process = cls(new_unit(settings.run_dir), seed.shape, seed.needs, is_copy=True)
        STARTING.add(process.unit)
        try:
            await whole(process._copy(seed, tap))  # a copy of no known number would be nobody's
        except BaseException as error:
            await undo(process.end())
            if isinstance(error, OSError):
                raise CopperError(f"QEMU cannot be copied: {error.strerror}") from error
            raise
        finally:
            STARTING.discard(process.unit)
        return process

    async def _copy(self, seed: Seed, tap: int) -> None:
        try:
            self._of(await self._ask_for_copy(seed, tap))
        except TimedOut:
            raise
        except CopperError:
            # a seed that ended just then may have been copied: the copy says its number itself
            with contextlib.suppress(CopperError):
                self._of(await self.layers.copied())
            raise
        await self.layers.copied()
        self._write_down()
        await self.monitor.take_over(self._open.pop("qmp"))

    async def _ask_for_copy(self, seed: Seed, tap: int) -> int:
        """The copy's number. What it gets is its own alone when this returns."""
        with contextlib.ExitStack() as undo:
            fds = []
            for name in SOCKETS:
                listening = undo.enter_context(self._listen(name))
                self._open[name] = self._connect_stream(name)
                theirs = undo.enter_context(listening.accept()[0])
                theirs.setblocking(name == "layers")
                fds += [listening.fileno(), theirs.fileno()]
            stderr = undo.enter_context((self.folder / "stderr").open("wb"))
            self._layers = LayerControl(self._open.pop("layers"))
            return await seed.fork([*fds, stderr.fileno(), tap], self.unit)

    def _of(self, pid: int) -> None:
        """From now on it is this process."""
        with contextlib.suppress(NotFound):  # it says itself why it ended
            self.alive = Alive.of(pid)
            self._watch()

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
            if settings.merge:
                environment["COPPER_LAYERS_MERGE"] = "1"
            if self.needs.accelerator == "tcg":
                environment["COPPER_LAYERS_COPIES"] = "1"
                # a thread of a copy is not known to the kernel's own bookkeeping of it
                environment["GLIBC_TUNABLES"] = "glibc.pthread.rseq=0"
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
        """What `adopt` reads. Raises CopperError when the process has ended."""
        if self.alive is None:
            raise CopperError(f"QEMU {self.unit} ended at once")
        text = json.dumps(
            {
                "alive": dataclasses.asdict(self.alive),
                "shape": self.shape.model_dump(),
                "needs": self.needs.model_dump(),
                "is_copy": self.is_copy,
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
        on_exit, self.on_exit = self.on_exit, None
        if on_exit is not None:
            on_exit()
        # an adopted process is another's child, which reaps it
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        self._close_pidfd()
        self.ended.set()

    def _close_pidfd(self) -> None:
        with self._signalling:
            os.close(self._pidfd)
            self._pidfd = -1

    def hold(self) -> None:
        """Stops all of the process, its monitor too, until `go_on`; nothing when it has ended. From any thread."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Ends `hold`; nothing where there was none."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        with self._signalling, contextlib.suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, number)

    def connect_port(self) -> socket.socket:
        """The host end of the guest agent's channel: connect it before the processors run."""
        return self._connect_stream("port")

    def connect_console(self) -> socket.socket:
        return self._connect_stream("console")

    def _connect_stream(self, name: str) -> socket.socket:
        if name in self._open:
            return self._open.pop(name)
        kind = socket.SOCK_SEQPACKET if name == "layers" else socket.SOCK_STREAM
        sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
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
        self._close_layers()
        await self.monitor.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def leave(self) -> None:
        """Lets go of the process, which runs on."""
        self.on_exit = None
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            self._close_pidfd()
        self._close_layers()
        await self.monitor.close()

    def _close_layers(self) -> None:
        if self._layers is not None:
            self._layers.close()
            self._layers = None
        for unused in self._open.values():
            unused.close()
        self._open.clear()

    def own_bytes(self) -> int:
        """Memory that is this process's alone, 0 when it is gone."""
        return own_bytes(self.pid)
