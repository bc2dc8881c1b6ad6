"""Recipes: what a guest image is made of, as data in `images/NAME/`.

    images/NAME/recipe.toml   the fields of Recipe
    images/NAME/files/        copied over the root file system, owned by root
    images/NAME/hooks/        executables, run on the host in name order; $1 is the root directory

A recipe may stand on another one, its base, and add to it.
docs/reference/recipes.md describes each field.
"""

from __future__ import annotations

import re
import sysconfig
import tomllib
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from copper.model.errors import BadInput, NotFound

# Debian policy, 5.6.7. A name ending in "-" means "remove it" to apt, and no package has one.
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{0,126}[a-z0-9+.]")
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
_PROGRAM = re.compile(r"[a-z0-9]+(/[a-z0-9-]+)*")
_SUITE = re.compile(r"[a-z][a-z0-9-]{0,30}")

MEMORY_MIB = range(32, 1024 * 1024 + 1)
DISK_MIB = range(32, 16 * 1024 * 1024 + 1)

_ADDED = {"packages", "enable", "mask"}  # fields that add to what the base has there


@dataclass(frozen=True)
class Recipe:
    """What an image is made of."""

    name: str
    directory: Path
    suite: str  # a Debian release by its code name
    packages: tuple[str, ...]
    # "installed": a Debian system, by mmdebstrap; "unpacked": the packages' files and no dpkg
    root: Literal["installed", "unpacked"]
    kernel: str  # a kernel package, or a meta-package that depends on one
    modules: tuple[str, ...]  # loaded before the root file system is mounted
    cmdline: str
    memory_mib: int  # of a VM that asks for nothing else
    disk_mib: int
    enable: tuple[str, ...] = ()  # systemd units
    mask: tuple[str, ...] = ()  # systemd units
    ssh: bool = False  # whether its VMs take SSH logins of their virtual cluster
    base: str = ""  # the recipe beside this one that it adds to
    # a program of Copper's sources, by its path there: makes more Debian packages in the folder $1
    packages_from: str = ""

    def with_packages(self, names: Iterable[str]) -> Recipe:
        """The recipe with more packages. Raises BadInput for what cannot be a package's name."""
        for name in names:
            check_package(name)
        return replace(self, packages=tuple(sorted({*self.packages, *names})))

    def with_disk(self, mib: int) -> Recipe:
        """The recipe with another disk size. Raises BadInput where it is out of range."""
        if mib not in DISK_MIB:
            raise BadInput(
                f"disk size {mib} MiB is out of range",
                advice=f"expected {DISK_MIB.start} to {DISK_MIB.stop - 1}",
            )
        return replace(self, disk_mib=mib)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where its files and hooks are: what SSH takes, its base's, then its own."""
        beside = self.directory.parent
        base = (beside / self.base,) if self.base else ()
        return (*((beside / "ssh",) if self.ssh else ()), *base, self.directory)

    @property
    def files(self) -> dict[str, Path]:
        """The files and links that are copied into the guest, by their paths there, in order."""
        return {
            path.relative_to(folder / "files").as_posix(): path
            for folder in self.folders
            for path in sorted((folder / "files").rglob("*"))
            if path.is_symlink() or path.is_file()
        }

    @property
    def hooks(self) -> tuple[Path, ...]:
        """The executables that are run, in order."""
        found = (sorted((folder / "hooks").glob("*")) for folder in self.folders)
        return tuple(path for folder in found for path in folder if path.is_file())

    @property
    def maker(self) -> Path | None:
        """The program that makes more packages, where it has one."""
        return self.directory.parents[1] / self.packages_from if self.packages_from else None


def check_package(name: str) -> str:
    """The name, if it can be a Debian package's. Raises BadInput."""
    if not _PACKAGE.fullmatch(name):
        raise BadInput(
            f"{_short(name)} cannot be a Debian package's name",
            advice="expected lower-case letters, digits and + - .",
        )
    return name


def recipes_dir() -> Path:
    """Where the recipes are: beside the sources, or where an installed Copper has its data."""
    beside = Path(__file__).resolve().parents[4] / "images"
    return beside if beside.is_dir() else Path(sysconfig.get_path("data"), "share/copper/images")


def names(directory: Path | None = None) -> list[str]:
    """The recipes that there are."""
    return sorted(found.parent.name for found in (directory or recipes_dir()).glob("*/recipe.toml"))


def load(name: str, directory: Path | None = None) -> Recipe:
    """The recipe of that name. Raises NotFound, or BadInput for a recipe that is not right."""
    there = directory or recipes_dir()
    path = there / name / "recipe.toml"
    if not _NAME.fullmatch(name) or not path.is_file():
        known = ", ".join(names(there)) or "none"
        raise NotFound(f"no recipe {_short(name)}", advice=f"there are: {known}")
    return read(path)


def read(path: Path) -> Recipe:
    """The recipe in a file `NAME/recipe.toml`. Raises BadInput naming the file and the field."""
    try:
        table = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: {error}") from None
    given: dict[str, Any] = {"name": path.parent.name, "directory": path.parent}
    known = {field.name for field in fields(Recipe)} - given.keys()
    for field in table.keys() - known:
        raise BadInput(
            f"{path}: unknown field {field}", advice=f"known: {', '.join(sorted(known))}"
        )
    own = {key: _frozen(value) for key, value in table.items()}
    base = _base(path, own["base"]) if "base" in own else None
    if base is None:
        needed = {field.name for field in fields(Recipe) if field.default is MISSING} & known
        if missing := needed - own.keys():
            raise BadInput(f"{path}: missing {', '.join(sorted(missing))}")
        recipe = Recipe(**given, **own)
    else:
        for field in _ADDED & own.keys():
            if isinstance(own[field], tuple):
                own[field] = (*getattr(base, field), *own[field])
        recipe = replace(base, **given, **own)
    for field, fine in _checks(recipe).items():
        if not fine:
            raise BadInput(f"{path}: {field} is not right: {getattr(recipe, field)!r}")
    return recipe


def _base(path: Path, name: object) -> Recipe:
    """The recipe that the one in a file adds to."""
    there = path.parents[1]
    if not isinstance(name, str) or name not in names(there) or name == path.parent.name:
        raise BadInput(f"{path}: base is not right: {name!r:.60}")
    base = read(there / name / "recipe.toml")
    if base.base:
        raise BadInput(f"{path}: its base {name} has a base of its own")
    return base


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _checks(recipe: Recipe) -> dict[str, bool]:
    """What must hold of each field."""

    def words(value: object) -> bool:
        return isinstance(value, tuple) and all(isinstance(word, str) for word in value)

    def matches(pattern: re.Pattern[str], value: object) -> bool:
        return isinstance(value, str) and bool(pattern.fullmatch(value))

    return {
        "name": matches(_NAME, recipe.name),
        "suite": matches(_SUITE, recipe.suite),
        "kernel": matches(_PACKAGE, recipe.kernel),
        "packages": words(recipe.packages) and all(matches(_PACKAGE, p) for p in recipe.packages),
        "root": recipe.root in ("installed", "unpacked"),
        "modules": words(recipe.modules),
        "cmdline": isinstance(recipe.cmdline, str) and recipe.cmdline.isprintable(),
        "memory_mib": type(recipe.memory_mib) is int and recipe.memory_mib in MEMORY_MIB,
        "disk_mib": type(recipe.disk_mib) is int and recipe.disk_mib in DISK_MIB,
        "enable": words(recipe.enable),
        "mask": words(recipe.mask),
        "ssh": type(recipe.ssh) is bool,
        # what it makes is installed by the guest's own dpkg
        "packages_from": recipe.packages_from == ""
        or (matches(_PROGRAM, recipe.packages_from) and recipe.root == "installed"),
    }


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:57] + "...")
