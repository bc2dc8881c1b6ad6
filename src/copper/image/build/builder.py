"""Builds a recipe, or finds that the cache already has what would come out.

CACHE/apt/                       package lists and packages (see apt.py)
CACHE/images/RECIPE-DIGEST/      kernel, initrd, disk.qcow2, built.json: appear at once, whole
CACHE/images/.RECIPE_*.part/     a build under way
CACHE/RECIPE.made/               packages that the recipe makes here, for the next build
CACHE/RECIPE.lock, CACHE/apt/SUITE.lock
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from copper.image.build import built as records
from copper.image.build import disk, initrd, rootfs
from copper.image.build.apt import Apt, Package
from copper.image.build.built import Built
from copper.image.build.digest import digest_of
from copper.image.build.modules import Modules
from copper.image.build.progress import Progress, Silent
from copper.image.build.recipes import Recipe
from copper.image.build.run import run
from copper.image.build.sources import Source, discover
from copper.image.build.workplace import Steps, locked, workplace
from copper.model.errors import BadInput, Refused

# The time of what a build makes, in seconds: Debian 12's release. Any constant would do.
EPOCH = 1686355200

_BUSYBOX = "busybox-static"  # the initial ramdisk's, whatever the recipe


@dataclass(frozen=True)
class Plan:
    """Every package of a build in its version, and where they come from."""

    mirrors: tuple[Source, ...]
    apt: Apt
    kernel: Package
    busybox: Package
    root: tuple[Package, ...]
    made: tuple[Path, ...]  # packages that no mirror has

    @property
    def packages(self) -> tuple[Package, ...]:
        return tuple(dict.fromkeys((*self.root, self.busybox, self.kernel)))

    @property
    def versions(self) -> dict[str, str]:
        return {package.name: package.version for package in self.packages}

    @property
    def versions_of_all(self) -> dict[str, str]:
        """Those that were made here too, by their files' names: NAME_VERSION_ARCHITECTURE.deb."""
        made = (deb.name.split("_") for deb in self.made)
        return self.versions | {name: version for name, version, _ in made}


def build(
    recipe: Recipe,
    *,
    agent: Path,
    cache: Path,
    packages: Sequence[str] = (),
    disk_mib: int | None = None,
    progress: Progress | None = None,
) -> Built:
    """Build a guest image, or return the one that the same inputs gave before.

    `agent` is the guest's program (`guest/build OUTDIR` makes it as OUTDIR/gridcentric), `cache` a
    folder that may be deleted whenever no build runs and no image of it is in use, `packages` more
    Debian packages, `disk_mib` another disk size. Must run as root. Two builds of one recipe take
    turns. A build that fails or is interrupted leaves only downloaded packages.

    Raises BadInput for packages that do not exist or do not fit together, NoRoom when the disk is
    full, CopperError naming the step for the rest.
    """
    recipe = recipe.with_packages(packages)
    if disk_mib is not None:
        recipe = recipe.with_disk(disk_mib)
    if not agent.is_file():
        raise BadInput(f"no guest agent at {agent}", advice="guest/build makes it")
    if os.geteuid() != 0:
        raise Refused("only root can build images", advice="files of a guest belong to its root")
    cache = cache.absolute()
    images = cache / "images"
    steps = Steps(recipe.name, progress or Silent())
    with locked(cache / f"{recipe.name}.lock"):
        made = _made(recipe, steps, cache / f"{recipe.name}.made")
        with locked(cache / "apt" / f"{recipe.suite}.lock"):
            with steps.step("reading package lists"):
                plan = _plan(recipe, cache / "apt", made)
            digest = digest_of(recipe, plan.versions, agent, made)
            destination = images / f"{recipe.name}-{digest[:16]}"
            if found := records.load(destination):
                return found
            with steps.step(f"fetching {len(plan.packages)} packages"):
                plan.apt.fetch(plan.packages)
        with workplace(images, recipe.name) as work:
            out = work / "out"
            out.mkdir()
            with steps.step("unpacking the kernel"):
                modules = _kernel_and_initrd(recipe, plan, work, out)
            with steps.step(f"installing {len(plan.root) + len(made)} packages"):
                _root(recipe, plan, work, agent, modules)
            with steps.step("writing the disk"):
                image = out / "disk.qcow2"
                disk.make(work / "root", image, mib=recipe.disk_mib, digest=digest, epoch=EPOCH)
                _record(recipe, plan, digest, out)
                # one that lost a file is in the way of its successor
                shutil.rmtree(destination, ignore_errors=True)
                out.rename(destination)
    return _present(records.load(destination))


def _made(recipe: Recipe, steps: Steps, folder: Path) -> tuple[Path, ...]:
    """The packages that the recipe has made here: first, for this machine may lack what that takes."""
    if recipe.maker is None:
        return ()
    if not recipe.maker.is_file():
        raise BadInput(
            f"recipe {recipe.name} needs {recipe.packages_from} of Copper's sources",
            advice="build it from a checkout",
        )
    with steps.step(f"making packages with {recipe.packages_from}"):
        run([recipe.maker, folder])
    return tuple(sorted(folder.glob("*.deb")))


def _plan(recipe: Recipe, folder: Path, made: tuple[Path, ...]) -> Plan:
    mirrors = discover(recipe.suite)
    apt = Apt(folder, recipe.suite, mirrors)
    apt.update()
    apt.check([*recipe.packages, recipe.kernel])
    (busybox,) = apt.resolve([_BUSYBOX])
    root = tuple(apt.resolve(rootfs.wanted(recipe)))
    return Plan(mirrors, apt, apt.kernel(recipe.kernel), busybox, root, made)


def _kernel_and_initrd(recipe: Recipe, plan: Plan, work: Path, out: Path) -> Path:
    """Write both; return the folder of the kernel's modules, named by its version."""
    kernel, modules = rootfs.unpack_kernel(plan.kernel, work / "kernel")
    shutil.copyfile(kernel, out / "kernel")
    busybox = rootfs.unpack_busybox(plan.busybox, work / "busybox")
    order = Modules(modules).load_order(recipe.modules)
    (out / "initrd").write_bytes(initrd.pack(busybox, order))
    return modules


def _root(recipe: Recipe, plan: Plan, work: Path, agent: Path, modules: Path) -> None:
    root = work / "root"
    root.mkdir()
    if recipe.root == "installed":
        rootfs.install(root, recipe, plan.apt, plan.root, work, EPOCH)
        if plan.made:
            rootfs.install_made(root, plan.made)
        rootfs.point_to(root, plan.mirrors)
        rootfs.add_modules(root, modules)
    else:
        rootfs.unpack(root, plan.root)
    rootfs.finish(root, recipe, agent)


def _record(recipe: Recipe, plan: Plan, digest: str, out: Path) -> None:
    Built(
        recipe=recipe.name,
        digest=digest,
        kernel=out / "kernel",
        initrd=out / "initrd",
        disk=out / "disk.qcow2",
        disk_bytes=recipe.disk_mib << 20,
        cmdline=recipe.cmdline,
        memory_mib=recipe.memory_mib,
        packages=plan.versions_of_all,
    ).save()
    for path in out.iterdir():
        path.chmod(0o444)


def _present(built: Built | None) -> Built:
    assert built is not None, "a finished build was removed at once by another program"
    return built
