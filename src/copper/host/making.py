"""A template in the making: a guest's first boots, until its agent is ready and the machine quiet, then the freeze."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from copper.host.console import Console, read_log
from copper.host.guest_port import GuestPort
from copper.image.build.progress import Progress
from copper.image.freeze import freeze
from copper.image.machine import Image, Machine
from copper.model.errors import CopperError, TimedOut
from copper.model.machine import Accelerator, Shape
from copper.model.settings import Settings
from copper.net.private import open_lone_tap
from copper.vmm.argv import Boot
from copper.vmm.capabilities import Qemu, accelerator_verdict, decide_accelerator, needs_of
from copper.vmm.process import QemuProcess
from copper.wire.undo import undo

QUIET_DEADLINE_S = 600.0
QUIET_WINDOW_S = 1.0
QUIET_SHARE = 0.12  # of one processor: an idle guest's ticks under emulation take less
QUIET_WINDOWS = 3  # so many in a row
LAST_LINES = 3


def proven(settings: Settings, qemu: Qemu, attempt: Callable[[Accelerator, bool], Image]) -> Image:
    """An image by the accelerator that is right here; where none has been proven, KVM has to prove itself.

    `attempt(accelerator, sure)` makes the image from the start, and soon gives up where it is not sure.
    """
    verdict = accelerator_verdict(settings, qemu)
    if verdict.proven:
        return attempt(verdict.accelerator, True)
    try:
        image = attempt("kvm", False)
        decide_accelerator(settings, qemu, "kvm", "a guest booted with it")
        return image
    except CopperError as error:
        reason = f"no guest came up with KVM: {error.message}"
    image = attempt("tcg", True)
    decide_accelerator(settings, qemu, "tcg", reason)
    return image


@contextlib.asynccontextmanager
async def started(
    settings: Settings, qemu: Qemu, accelerator: Accelerator, shape: Shape, boot: Boot
) -> AsyncIterator[tuple[QemuProcess, Console]]:
    """A machine that is no VM yet, its processors stopped, and its serial line. Its QEMU is gone afterwards."""
    tap = open_lone_tap()
    try:
        process = await QemuProcess.start(settings, shape, needs_of(qemu, accelerator), tap, boot)
    finally:
        os.close(tap)
    try:
        console = Console(process.connect_console(), log_of(process))
        try:
            yield process, console
        finally:
            await console.close()
    finally:
        await undo(process.end())


async def boot_and_freeze(
    settings: Settings,
    qemu: Qemu,
    accelerator: Accelerator,
    shape: Shape,
    boot: Boot,
    progress: Progress,
    deadline_s: float,
) -> Image:
    """One boot to a ready agent and a quiet machine, frozen. Raises TimedOut or CopperError."""
    async with started(settings, qemu, accelerator, shape, boot) as (process, _):
        machine = Machine(process, [], (boot.disk,))
        port = GuestPort(process.connect_port(), on_call=_no_calls)
        try:
            await process.monitor.cont()
            with progress.step(f"first boot ({accelerator})"):
                await _hello(port, process, deadline_s, accelerator)
            with progress.step("waiting for a quiet machine"):
                await _wait_until_quiet(process)
            image, _ = await freeze(
                machine, settings, quiesce=port.quiesce, lowest=True, step_aside=False, run_on=False
            )
            return image
        finally:
            await port.close()
            await undo(machine.end())


async def _hello(
    port: GuestPort, process: QemuProcess, deadline_s: float, accelerator: Accelerator
) -> None:
    hello = asyncio.ensure_future(port.wait_hello(deadline_s))
    ended = asyncio.ensure_future(process.ended.wait())
    try:
        await asyncio.wait({hello, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not hello.done() or port.closed.is_set():  # the channel ends a moment before its QEMU
            raise CopperError(f"the guest ended while it booted; {last_said(process)}")
        hello.result()
    except TimedOut:
        raise TimedOut(
            f"the guest's agent was not ready within {deadline_s:g} s ({accelerator});"
            f" {last_said(process)}"
        ) from None
    finally:
        for task in (hello, ended):
            task.cancel()
        await asyncio.gather(hello, ended, return_exceptions=True)


async def _no_calls(verb: str, args: dict[str, object], call: int) -> dict[str, object]:
    raise CopperError(f"{verb}: this machine is still being made")


def log_of(process: QemuProcess) -> Path:
    """Where the serial line of a machine in the making is kept while it runs."""
    return process.folder / "console.log"


def last_said(process: QemuProcess) -> str:
    """`its last lines: …`, for an error's end."""
    lines = read_log(log_of(process)).decode(errors="replace").splitlines()
    said = ["".join(c for c in line if c.isprintable()).strip()[-160:] for line in lines]
    last = [line for line in said if line][-LAST_LINES:]
    return f"its last lines: {' / '.join(last)}" if last else "it said nothing"


async def _wait_until_quiet(process: QemuProcess) -> None:
    """Returns when the guest has done what booting leaves to do. Raises TimedOut when it never rests."""
    deadline = time.monotonic() + QUIET_DEADLINE_S
    in_a_row = 0
    before, since = turns_of(process.pid), time.monotonic()
    while in_a_row < QUIET_WINDOWS:
        if time.monotonic() > deadline:
            raise TimedOut(f"the guest was not quiet within {QUIET_DEADLINE_S:g} s of its boot")
        if process.ended.is_set():
            raise CopperError("the guest ended while it booted")
        await asyncio.sleep(QUIET_WINDOW_S)
        after, now = turns_of(process.pid), time.monotonic()
        rests = busy_share(before, after, now - since) < QUIET_SHARE
        in_a_row = in_a_row + 1 if rests and not wants_a_processor(process.pid) else 0
        before, since = after, now


Turns = Mapping[str, tuple[float, float]]


def turns_of(pid: int) -> Turns:
    """By thread of a process, the seconds that it ran and the seconds that it waited for a processor."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            ran, waited, _ = (task / "schedstat").read_text().split()
            found[task.name] = int(ran) / 1e9, int(waited) / 1e9
    return found


def wants_a_processor(pid: int) -> bool:
    """Whether a thread of it runs or waits its turn now: what it waits is in its account when it has had that."""
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            if (task / "stat").read_text().rpartition(")")[2].split()[0] == "R":
                return True
    return False


def busy_share(before: Turns, after: Turns, elapsed_s: float) -> float:
    """How much of the time it ran that it was not kept waiting: 0 to 1, of the busiest thread.

    On a host that has no time for a guest a busy one runs as little as a quiet one; it waits all the more.
    """
    shares = [0.0]
    for thread, (ran, waited) in after.items():
        ran_before, waited_before = before.get(thread, (0.0, 0.0))
        its_own = elapsed_s - (waited - waited_before)
        ran -= ran_before
        shares.append(min(1.0, ran / its_own) if its_own > 0 else 1.0)
    return max(shares)
