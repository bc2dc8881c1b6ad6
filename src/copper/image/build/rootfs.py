"""A guest's root directory: Debian by mmdebstrap or a few packages unpacked, and our own part.

Two kinds (`root` in a recipe):
    installed   a Debian system with dpkg, apt and everything configured
    unpacked    the packages' files only: no maintainer script runs, seconds instead of a minute
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from copper.image.build.apt import Apt, Package
from copper.image.build.recipes import Recipe
from copper.image.build.run import run
from copper.image.build.sources import Source

# Kept out of both kinds; copyright files stay, as their licences ask.
_UNWANTED = ("doc", "man", "info", "locale", "lintian", "doc-base")

# Where the guest's program goes, and the names it is called by. /usr/bin/gc is graphviz's.
AGENT = "usr/lib/gridcentric/gridcentric"
AGENT_NAMES = ("usr/sbin/gridcentric-agent", "usr/local/bin/gc", "usr/local/bin/gridcentric")
HOOK_FOLDERS = (
    "pre-clone.d",
    "post-clone.d",
    "post-clone-on-clone.d",
    "post-clone-on-master.d",
)

_SKELETON = (
    *("dev", "etc", "home", "mnt", "opt", "proc", "run", "srv", "sys", "tmp"),
    *("usr/bin", "usr/lib", "usr/lib64", "usr/local/bin", "usr/sbin", "usr/share"),
    *("var/lib", "var/log", "var/tmp", "root"),
)
_MERGED = ("bin", "lib", "lib64", "sbin")  # links into usr, as Debian has them

_UNPACK = (
    'dpkg-deb --fsys-tarfile "$1" | tar --extract --preserve-permissions'
    ' --keep-directory-symlink --directory "$2"'
)


def wanted(recipe: Recipe) -> list[str]:
    """What to ask apt for, so that its answer is every package of the root directory."""
    if recipe.root == "installed":
        return ["?essential", "apt", *recipe.packages]
    return list(recipe.packages)


def install(
    root: Path, recipe: Recipe, apt: Apt, packages: Sequence[Package], work: Path, epoch: int
) -> None:
    """Make the root directory with mmdebstrap, from packages and lists that are already here."""
    debs = work / "debs"
    debs.mkdir()
    for package in packages:
        os.link(package.file, debs / package.file.name)
    # Java's and others' scripts fail where there is no folder for manuals: update-alternatives
    manuals = " ".join(f'"$1/usr/share/man/man{section}"' for section in range(1, 9))
    offline = (
        f'mkdir -p "$1/var/cache/apt/archives/partial" {manuals}'
        f' && cp -al {shlex.quote(str(debs))}/. "$1/var/cache/apt/archives/"'
        f' && cp -a {shlex.quote(str(apt.lists))}/. "$1/var/lib/apt/lists/"'
    )
    excludes = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _UNWANTED]
    mmdebstrap: list[str | Path] = [
        *("mmdebstrap", "--mode=root", "--variant=apt", "--format=directory"),
        *("--architectures=amd64", "--skip=update", f"--setup-hook={offline}"),
        *excludes,
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        "--dpkgopt=force-unsafe-io",  # the directory is thrown away if the machine stops
        '--aptopt=APT::Sandbox::User "root"',  # the cache may lie where _apt cannot look
        f"--include={','.join(recipe.packages)}",
        *(apt.suite, root, apt.sources),
    ]
    # mounts and left-over processes of a build end with it, whatever happens to mmdebstrap
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    run([*alone, *mmdebstrap], env={"SOURCE_DATE_EPOCH": str(epoch)}, called="mmdebstrap")
    for name in ("apt/apt.conf.d/99mmdebstrap", "apt/sources.list", "resolv.conf"):
        (root / "etc" / name).unlink(missing_ok=True)
    unsafe = root / "etc/dpkg/dpkg.cfg.d/99mmdebstrap"
    unsafe.write_text(unsafe.read_text().replace("force-unsafe-io\n", ""))


def install_made(root: Path, debs: Sequence[Path]) -> None:
    """Let the guest's own dpkg install packages that no mirror has; nothing is fetched for them."""
    place = root / "var/tmp"
    for deb in debs:
        shutil.copyfile(deb, place / deb.name)
    names = [f"/var/tmp/{deb.name}" for deb in debs]
    dpkg: list[str | Path] = ["chroot", root, "dpkg", "--log=/dev/null", "--install", *names]
    run(dpkg, env={"DEBIAN_FRONTEND": "noninteractive"}, called="dpkg")
    for deb in debs:
        (place / deb.name).unlink()


def point_to(root: Path, sources: Iterable[Source]) -> None:
    """Let the guest's apt use the mirror that its image came from."""
    folder = root / "etc/apt/sources.list.d"
    for path in folder.iterdir():
        path.unlink()
    text = "\n".join(source.without_secrets().stanza() for source in sources)
    (folder / "debian.sources").write_text(text)


def unpack(root: Path, packages: Iterable[Package]) -> None:
    """Make the root directory from the files of packages alone."""
    for name in _SKELETON:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in _MERGED:
        (root / name).symlink_to(f"usr/{name}")
    (root / "root").chmod(0o700)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    for package in packages:
        # dpkg-deb --extract would put folders in place of the links above
        run(["bash", "-o", "pipefail", "-c", _UNPACK, "unpack", package.file, root])
    for name in _UNWANTED:
        shutil.rmtree(root / "usr/share" / name, ignore_errors=True)


def unpack_kernel(package: Package, into: Path) -> tuple[Path, Path]:
    """Unpack a kernel; return it and the folder of its modules, named by its version."""
    run(["dpkg-deb", "--extract", package.file, into])
    if not (into / "lib").exists():  # from Debian 13 on, packages name usr/lib
        (into / "lib").symlink_to("usr/lib")
    (modules,) = (into / "lib/modules").iterdir()
    run(["depmod", "--basedir", into, modules.name])
    return into / "boot" / f"vmlinuz-{modules.name}", modules


def unpack_busybox(package: Package, into: Path) -> Path:
    """Unpack a static busybox, and return the program."""
    run(["dpkg-deb", "--extract", package.file, into])
    (program,) = (*into.glob("bin/busybox"), *into.glob("usr/bin/busybox"))
    return program


def add_modules(root: Path, modules: Path) -> None:
    """Move a kernel's modules into the root directory, for the guest's own modprobe."""
    there = root / "usr/lib/modules"
    there.mkdir(parents=True, exist_ok=True)
    modules.rename(there / modules.name)


def finish(root: Path, recipe: Recipe, agent: Path) -> None:
    """Add what the recipe adds to its packages, and the guest's own program."""
    for target, path in recipe.files.items():
        _put(path, root / target, executable=os.access(path, os.X_OK))
    _put(agent, root / AGENT, executable=True)
    for name in AGENT_NAMES:
        link = root / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)  # the guest API's package has it too
        link.symlink_to(f"/{AGENT}")
    for name in HOOK_FOLDERS:
        (root / "etc/gridcentric" / name).mkdir(parents=True, exist_ok=True)
    for unit in recipe.mask:
        place = root / "etc/systemd/system" / unit
        place.unlink(missing_ok=True)
        place.symlink_to("/dev/null")
    if recipe.enable:
        run(["chroot", root, "systemctl", "enable", *recipe.enable])
    for hook in recipe.hooks:
        run([hook, root])


def _put(path: Path, target: Path, *, executable: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if path.is_symlink():
        target.symlink_to(path.readlink())
        return
    shutil.copyfile(path, target)
    # a checkout's own modes depend on its user's umask
    target.chmod(0o755 if executable else 0o644)
