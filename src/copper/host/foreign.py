"""Templates of distributions' cloud images: started by their own boot loader, given the agent by cloud-init."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import shutil
from pathlib import Path

from copper.host.console import Console
from copper.host.making import boot_and_freeze, last_said, proven, started
from copper.host.template import check_asked, standing
from copper.image.build.progress import Progress
from copper.image.build.recipes import DISK_MIB
from copper.image.foreign import intake, seed
from copper.image.foreign.intake import Format, Source
from copper.image.machine import Image
from copper.image.store import ImageStore, Manifest
from copper.model.errors import BadInput, CopperError, TimedOut
from copper.model.machine import Accelerator, Shape
from copper.model.names import check_name
from copper.model.settings import Settings
from copper.vmm.argv import Boot
from copper.vmm.capabilities import Qemu, probe_qemu

MEMORY_MIB = 1024
# cloud-init is Python, and takes minutes where a processor is emulated and shared
FIRST_BOOT_S = 1800.0
BOOT_S = 600.0
KVM_PROOF_S = 180.0
_TAIL_BYTES = 4096  # more than the longest line that is looked for

# What a machine says that will not get further by itself.
_HOPELESS = {
    b"No bootable device": "its disk does not boot",
    b"Kernel panic - not syncing": "its kernel panicked",
    b"grub rescue>": "its boot loader does not find its files",
}


def import_template(
    settings: Settings,
    name: str,
    file: Path,
    form: Format = "qcow2",
    *,
    memory_mib: int | None = None,
    cpus: int = 1,
    disk_mib: int | None = None,
    replace: bool = False,
    progress: Progress,
) -> Manifest:
    """Makes an image of a disk file; one that is there and made of the very same is left as it is.

    `disk_mib` makes the disk larger. Raises BadInput, NotFound, Refused, Damaged, Foreign, Conflict (the name is
    another's, or in use), NoRoom, TimedOut or CopperError. What fails leaves the images as they were.
    """
    check_name(name, "image")
    agent = check_asked(settings, memory_mib or MEMORY_MIB, cpus)
    with progress.step("looking at the file"):
        source = intake.look(file, form)
        shape = Shape(
            memory_mib=memory_mib or MEMORY_MIB,
            cpus=cpus,
            disk_bytes=_disk_bytes(source, disk_mib),
        )
    qemu = probe_qemu(settings)
    made_of = [source.sha256, source.format, seed.digest(agent)]
    digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    found = standing(settings, qemu, name, digest, shape, replace=replace)
    if found is not None:
        return found
    store = ImageStore(settings)
    with store.claim(name) as folder:
        with progress.step("checking the file"):
            intake.check(source, settings)
        making = _Making(settings, qemu, source, shape, folder, agent, name, progress)
        image = proven(settings, qemu, making.attempt)
        try:
            with progress.step("storing the image"):
                return store.write(folder, image, name, source.origin, digest)
        finally:
            image.close()


def _disk_bytes(source: Source, disk_mib: int | None) -> int:
    if disk_mib is None:
        return source.disk_bytes
    if disk_mib not in DISK_MIB or disk_mib << 20 < source.disk_bytes:
        least = -(-source.disk_bytes >> 20)
        raise BadInput(
            f"--disk {disk_mib}",
            advice=f"expected {least} to {DISK_MIB.stop - 1}: a disk only grows",
        )
    return disk_mib << 20


class _Making:
    """What it takes to make an image of a file that was found sound."""

    def __init__(
        self,
        settings: Settings,
        qemu: Qemu,
        source: Source,
        shape: Shape,
        folder: Path,
        agent: Path,
        name: str,
        progress: Progress,
    ) -> None:
        self._settings = settings
        self._qemu = qemu
        self._source = source
        self._shape = shape
        self._disk = folder / "disk.qcow2"
        self._seed = folder / "seed"
        self._agent = agent
        self._name = name
        self._progress = progress

    def attempt(self, accelerator: Accelerator, sure: bool) -> Image:
        """One try, from the user's file on. `sure`: the accelerator works, so a guest may take its time."""
        with self._progress.step("copying the disk"):
            intake.convert(self._source, self._disk, self._shape.disk_bytes)
        return asyncio.run(self._two_boots(accelerator, sure))

    async def _two_boots(self, accelerator: Accelerator, sure: bool) -> Image:
        token = secrets.token_hex(8)
        self._seed.mkdir()
        try:
            seed.write(self._seed, self._agent, token, self._name)
            with self._progress.step(f"cloud-init ({accelerator})"):
                await self._first_boot(accelerator, token, FIRST_BOOT_S if sure else KVM_PROOF_S)
        finally:
            shutil.rmtree(self._seed)
        return await boot_and_freeze(
            self._settings,
            self._qemu,
            accelerator,
            self._shape,
            Boot(self._disk),
            self._progress,
            BOOT_S if sure else KVM_PROOF_S,
        )

    async def _first_boot(self, accelerator: Accelerator, token: str, deadline_s: float) -> None:
        """Returns when the guest's cloud-init has run the seed's script, and the guest powered itself off."""
        boot = Boot(self._disk, seed=self._seed)
        args = (self._settings, self._qemu, accelerator, self._shape, boot)
        async with started(*args) as (process, console):
            await process.monitor.cont()
            try:
                async with asyncio.timeout(deadline_s):
                    report = await _report(console, token)
                    if report == "done":
                        await process.ended.wait()
            except TimeoutError:
                raise TimedOut(
                    f"cloud-init did not do its part within {deadline_s:g} s ({accelerator});"
                    f" {last_said(process)}",
                    advice="the image needs cloud-init, or the like, that reads NoCloud seeds",
                ) from None
            if report != "done":
                raise CopperError(
                    f"the guest cannot be made a template: {report}; {last_said(process)}"
                )


async def _report(console: Console, token: str) -> str:
    """What the seed's script reports, or why it never will."""
    begin = f"copper-import {token} ".encode()
    tail = b""
    with console.attach() as said:
        async for piece in said:  # ends with the machine
            tail = (tail + piece)[-_TAIL_BYTES:]
            line, ended, _ = tail.partition(begin)[2].partition(b"\n")
            if ended:
                return line.decode(errors="replace").strip()
            for words, meaning in _HOPELESS.items():
                if words in tail:
                    return meaning
    return "it ended before cloud-init did its part"
