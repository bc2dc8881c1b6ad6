"""Templates: a recipe's guest, booted once to a ready agent and a quiet machine, then frozen and stored."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from copper.host.making import boot_and_freeze, proven
from copper.host.records import read_records
from copper.image.build import builder, recipes
from copper.image.build.progress import Progress
from copper.image.disks import check_room
from copper.image.machine import Image
from copper.image.store import ImageStore, Manifest
from copper.image.suspended import SuspendedStore
from copper.model.errors import BadInput, Conflict, CopperError, Foreign, NotFound
from copper.model.machine import Accelerator, Shape
from copper.model.names import check_name
from copper.model.settings import Settings
from copper.vmm.argv import Boot
from copper.vmm.capabilities import Qemu, accelerator_verdict, needs_of, probe_qemu

BOOT_DEADLINE_S = 600.0  # on a host that emulates, and is busy with others
KVM_PROOF_S = 30.0  # a guest that runs at a processor's own speed is ready long before


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
    agent = check_asked(settings, shape_memory, cpus)
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
    found = standing(settings, qemu, name, built.digest, shape, replace=replace)
    if found is not None:
        return found
    with store.claim(name) as folder:
        disk = folder / "disk.qcow2"

        def attempt(accelerator: Accelerator, sure: bool) -> Image:
            with progress.step("copying the disk"):
                _copy_disk(built.disk, disk)
            boot = Boot(disk, built.kernel, built.initrd, built.cmdline)
            deadline_s = BOOT_DEADLINE_S if sure else KVM_PROOF_S
            return asyncio.run(
                boot_and_freeze(settings, qemu, accelerator, shape, boot, progress, deadline_s)
            )

        image = proven(settings, qemu, attempt)
        try:
            with progress.step("storing the image"):
                return store.write(folder, image, name, recipe_name, built.digest, ssh=recipe.ssh)
        finally:
            image.close()


def check_asked(settings: Settings, memory_mib: int, cpus: int) -> Path:
    """Checks a template's size and makes the state folder; returns the guest's agent. Raises BadInput, CopperError."""
    if memory_mib not in range(64, 1 << 20) or memory_mib % 2:
        raise BadInput(f"--memory {memory_mib}", advice="expected an even number of MiB from 64")
    if cpus not in range(1, 65):
        raise BadInput(f"--cpus {cpus}", advice="expected 1 to 64")
    agent = settings.native_dir / "guest" / "gridcentric"
    if not agent.exists():
        raise CopperError(
            f"{agent} is missing", advice="build it: guest/build, as scripts/demo does"
        )
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    return agent


def standing(
    settings: Settings, qemu: Qemu, name: str, digest: str, shape: Shape, *, replace: bool
) -> Manifest | None:
    """The image of that name, if it is made of the very same; None if one can be made in its place.

    Raises Conflict when it is made of something else and shall not give way, or is in use.
    """
    store = ImageStore(settings)
    with contextlib.suppress(NotFound):
        try:
            found = store.manifest(name)
            verdict = accelerator_verdict(settings, qemu)
            usable = found.needs == needs_of(qemu, verdict.accelerator) or not verdict.proven
            if found.recipe_digest == digest and found.shape == shape and usable:
                return found
        except Foreign:  # another Copper's, such as one whose VMs had no network card
            if not replace:
                raise
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
    return None


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
