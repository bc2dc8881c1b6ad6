"""Templates: a recipe's guest, booted once to a ready agent and a quiet machine, then frozen and stored."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from copper.host.console import Console
from copper.host.guest_port import GuestPort
from copper.host.records import read_records
from copper.image.build import builder, recipes
from copper.image.build.built import Built
from copper.image.build.progress import Progress
from copper.image.disks import check_room
from copper.image.freeze import freeze
from copper.image.machine import Image, Machine
from copper.image.store import ImageStore, Manifest
from copper.image.suspended import SuspendedStore
from copper.model.errors import BadInput, Conflict, CopperError, NotFound, TimedOut
from copper.model.machine import Accelerator, Shape
from copper.model.names import check_name
from copper.model.settings import Settings
from copper.net.private import open_lone_tap
from copper.vmm.argv import Boot
from copper.vmm.capabilities import (
    Qemu,
    accelerator_verdict,
    decide_accelerator,
    needs_of,
    probe_qemu,
)
from copper.vmm.process import QemuProcess

BOOT_DEADLINE_S = 300.0
KVM_PROOF_S = 30.0  # a guest that runs at a processor's own speed is ready long before
QUIET_DEADLINE_S = 180.0
QUIET_WINDOW_S = 1.0
QUIET_SHARE = 0.12  # of one processor: an idle guest's ticks under emulation take less
QUIET_WINDOWS = 3  # so many in a row


def build_template(
    settings: Settings,
    name: str,
    recipe_name: str,
    *,
    packages: Sequence[str] = (),
    memory_mib: int | None = None,
    cpus: int = 1,
    disk_mib: int | None = None,
    replace: bool = False,
    progress: Progress,
) -> Manifest:
    """Builds, boots, freezes and stores an image; one that is there and made of the same is left as it is.

    `replace`: an image of this name that is made of something else gives way at the end.
    Raises BadInput, NotFound, Conflict (the name is another's, or in use), NoRoom or CopperError.
    What fails leaves the images as they were.
    """
    check_name(name, "image")
    recipe = recipes.load(recipe_name)
    shape_memory = memory_mib or recipe.memory_mib
    if shape_memory not in range(64, 1 << 20) or shape_memory % 2:
        raise BadInput(f"--memory {shape_memory}", advice="expected an even number of MiB from 64")
    if cpus not in range(1, 65):
        raise BadInput(f"--cpus {cpus}", advice="expected 1 to 64")
    agent = settings.native_dir / "guest" / "gridcentric"
    if not agent.exists():
        raise CopperError(
            f"{agent} is missing", advice="build it: guest/build, as scripts/demo does"
        )
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    check_room(settings.state_dir, settings.keep_disk_mib, 512 << 20, f"building image {name}")
    qemu = probe_qemu(settings)
    store = ImageStore(settings)
    built = builder.build(
        recipe,
        agent=agent,
        cache=settings.cache_dir,
        packages=packages,
        disk_mib=disk_mib,
        progress=progress,
    )
    shape = Shape(memory_mib=shape_memory, cpus=cpus, disk_bytes=built.disk_bytes)
    with contextlib.suppress(NotFound):
        found = _manifest(store, name, replace)
        verdict = accelerator_verdict(settings, qemu)
        usable = found.needs == needs_of(qemu, verdict.accelerator) or not verdict.proven
        if found.recipe_digest == built.digest and found.shape == shape and usable:
            return found
        if not replace:
            raise Conflict(
                f"image {name} exists and is made of something else",
                advice="--replace makes it anew, copper image delete removes it",
            )
        users = [r.identity.name for r in read_records(settings.vms_dir) if r.template == name]
        if users:
            raise Conflict(
                f"image {name} is in use by {', '.join(users[:5])}", advice="end them first"
            )
        SuspendedStore(settings).check_unused(name)
    with store.claim(name) as folder:
        disk = folder / "disk.qcow2"
        with progress.step("copying the disk"):
            _copy_disk(built.disk, disk)
        image = asyncio.run(_boot_and_freeze(settings, qemu, shape, built, disk, progress))
        try:
            with progress.step("storing the image"):
                return store.write(folder, image, name, recipe_name, built.digest)
        finally:
            image.close()


def _copy_disk(source: Path, target: Path) -> None:
    """Shares the blocks where the file system can."""
    done = subprocess.run(
        ["cp", "--reflink=auto", "--sparse=auto", str(source), str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CopperError(f"the disk cannot be copied: {done.stderr.strip()[-200:]}")
    target.chmod(0o644)


async def _boot_and_freeze(
    settings: Settings, qemu: Qemu, shape: Shape, built: Built, disk: Path, progress: Progress
) -> Image:
    verdict = accelerator_verdict(settings, qemu)
    if verdict.proven:
        return await _try(
            settings, qemu, verdict.accelerator, shape, built, disk, progress, BOOT_DEADLINE_S
        )
    try:
        image = await _try(settings, qemu, "kvm", shape, built, disk, progress, KVM_PROOF_S)
        decide_accelerator(settings, qemu, "kvm", "a guest booted with it")
        return image
    except CopperError as error:
        reason = f"no guest came up with KVM: {error.message}"
    await asyncio.to_thread(disk.unlink)
    await asyncio.to_thread(_copy_disk, built.disk, disk)
    image = await _try(settings, qemu, "tcg", shape, built, disk, progress, BOOT_DEADLINE_S)
    decide_accelerator(settings, qemu, "tcg", reason)
    return image


async def _try(
    settings: Settings,
    qemu: Qemu,
    accelerator: Accelerator,
    shape: Shape,
    built: Built,
    disk: Path,
    progress: Progress,
    deadline_s: float,
) -> Image:
    """One boot. Whatever happens, its QEMU is gone afterwards."""
    boot = Boot(disk, built.kernel, built.initrd, built.cmdline)
    tap = open_lone_tap()
    try:
        needs = needs_of(qemu, accelerator)
        process = await QemuProcess.start(settings, shape, needs, tap, boot)
    finally:
        os.close(tap)
    machine = Machine(process, [], (disk,))
    log = process.folder / "console.log"
    console = Console(process.connect_console(), log)
    port = GuestPort(process.connect_port(), on_call=_no_calls)
    try:
        await process.monitor.cont()
        with progress.step(f"first boot ({accelerator})"):
            try:
                await port.wait_hello(deadline_s)
            except TimedOut:
                raise TimedOut(
                    f"the guest's agent was not ready within {deadline_s:g} s"
                    f" ({accelerator}); its last line: {_last_line(log)!r}"
                ) from None
        with progress.step("waiting for a quiet machine"):
            await _wait_until_quiet(process)
        image, _ = await freeze(
            machine, settings, quiesce=port.quiesce, lowest=True, step_aside=False, run_on=False
        )
        return image
    finally:
        await port.close()
        await console.close()
        await machine.end()


async def _no_calls(verb: str, args: dict[str, object], call: int) -> dict[str, object]:
    raise CopperError(f"{verb}: this machine is still being made")


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[-160:] for line in reversed(lines) if line.strip()), "")


async def _wait_until_quiet(process: QemuProcess) -> None:
    """Returns when the guest has done what booting leaves to do. Raises TimedOut when it never rests."""
    deadline = time.monotonic() + QUIET_DEADLINE_S
    in_a_row = 0
    used, since = _processor_seconds(process.pid), time.monotonic()
    while in_a_row < QUIET_WINDOWS:
        if time.monotonic() > deadline:
            raise TimedOut(f"the guest was not quiet within {QUIET_DEADLINE_S:g} s of its boot")
        if process.ended.is_set():
            raise CopperError("the guest ended while it booted")
        await asyncio.sleep(QUIET_WINDOW_S)
        now_used, now = _processor_seconds(process.pid), time.monotonic()
        share = (now_used - used) / (now - since)
        in_a_row = in_a_row + 1 if share < QUIET_SHARE else 0
        used, since = now_used, now


def _processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
