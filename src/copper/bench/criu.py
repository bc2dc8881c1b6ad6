"""A peer: a process with as many bytes as a guest's image holds, stored and brought back by CRIU.

It is one process and not a machine: what a fork of processes alone would cost, where the data is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from copper.model.errors import CopperError, NotFound, TimedOut

PROGRAM = "criu"
DEADLINE_S = 60.0
KEPT = Path("/run/criu.kdat")  # what CRIU has found out of the kernel, for its next start
# says its number when it has its bytes, and again whenever it gets SIGUSR1
HOLDS = """
import os, signal, socket, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
held = os.urandom(int(sys.argv[2]))
while True:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as answer:
        answer.sendto(str(os.getpid()).encode(), sys.argv[1])
    signal.sigwait({signal.SIGUSR1})
"""


@contextlib.contextmanager
def kept_as_found() -> Iterator[None]:
    """At the end there is no file of CRIU's outside of our folders, unless there was one before."""
    was_kept = KEPT.exists()
    try:
        yield
    finally:
        if not was_kept:
            KEPT.unlink(missing_ok=True)


class Criu:
    """Processes of `size` bytes; each lives for one round only."""

    def __init__(self, size: int, folder: Path, sockets: Path) -> None:
        self._size = size
        self._images = folder / "criu"
        self._answers = sockets / "criu.sock"

    async def prepare(self) -> None:
        """Raises NotFound when there is no CRIU, or none for this kernel; TimedOut."""
        if shutil.which(PROGRAM) is None:
            raise NotFound("there is no criu", advice="install the package criu")
        status, said = await _run(PROGRAM, "check")
        if status:
            why = complaint(said) or "criu check failed"
            raise NotFound(f"there is no criu that works with this kernel: {why}")

    async def round(self) -> tuple[float, float]:
        """Milliseconds of a dump, and of a restore until the process has answered. Raises CopperError."""
        async with contextlib.AsyncExitStack() as undo:
            answers = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            self._answers.unlink(missing_ok=True)
            answers.bind(str(self._answers))
            answers.setblocking(False)
            shutil.rmtree(self._images, ignore_errors=True)
            self._images.mkdir()
            undo.callback(shutil.rmtree, self._images, ignore_errors=True)
            process = await undo.enter_async_context(self._holds())
            await _answered(answers, process.pid)

            started = time.perf_counter()
            await self._criu("dump", "--tree", str(process.pid))
            dumped = (time.perf_counter() - started) * 1000
            await process.wait()  # its number is free again

            started = time.perf_counter()
            undo.callback(_end, process.pid)
            # a child of ours, as before
            await self._criu("restore", "--restore-detached", "--restore-sibling")
            os.kill(process.pid, signal.SIGUSR1)
            await _answered(answers, process.pid)
            return dumped, (time.perf_counter() - started) * 1000

    @contextlib.asynccontextmanager
    async def _holds(self) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", HOLDS, str(self._answers), str(self._size)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # what is restored needs nobody else's session
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _criu(self, verb: str, *options: str) -> None:
        log = self._images / f"{verb}.log"
        # control groups are this machine's business
        common = ("--images-dir", str(self._images), "--log-file", str(log))
        status, _ = await _run(PROGRAM, verb, *options, *common, "--manage-cgroups=ignore")
        if status:
            said = log.read_text(errors="replace") if log.exists() else ""
            raise CopperError(f"criu {verb}: {complaint(said) or f'it ended with {status}'}")


def complaint(said: str) -> str:
    """What CRIU says went wrong, in one line; "" when it says nothing of the kind."""
    found = re.findall(r"Error \([^)]*\): (.*\S)", said)
    return "; ".join(one for one in found if not one.startswith("exited, status"))[:300]


async def _run(*argv: str) -> tuple[int, str]:
    """Its exit status and what it says."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            said, _ = await process.communicate()
    except TimeoutError:
        raise TimedOut(f"{' '.join(argv[:2])}: not done within {DEADLINE_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, said.decode(errors="replace")


async def _answered(answers: socket.socket, pid: int) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(DEADLINE_S):
            while await loop.sock_recv(answers, 64) != str(pid).encode():
                pass
    except TimeoutError:
        raise TimedOut(f"the process did not answer within {DEADLINE_S:g} s") from None


def _end(pid: int) -> None:
    """Ends what was restored: a child of ours, if it is there."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
