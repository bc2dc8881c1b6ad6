"""Recipes: what a guest image is made of, as data in `images/NAME/`.

    images/NAME/recipe.toml   the fields of Recipe
    images/NAME/files/        copied over the root file system, owned by root
    images/NAME/hooks/        executables, run on the host in name order; $1 is the root directory

docs/reference/recipes.md describes each field.
"""

from __future__ import annotations

import re
import sysconfig
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from copper.model.errors import BadInput, NotFound

# Debian policy, 5.6.7. A name ending in "-" means "remove it" to apt, and no package has one.
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{0,126}[a-z0-9+.]")
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
_SUITE = re.compile(r"[a-z][a-z0-9-]{0,30}")

MEMORY_MIB = range(32, 1024 * 1024 + 1)
DISK_MIB = range(32, 16 * 1024 * 1024 + 1)


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
    def files(self) -> Path:
        return self.directory / "files"

    @property
    def hooks(self) -> tuple[Path, ...]:
        return tuple(sorted(p for p in (self.directory / "hooks").glob("*") if p.is_file()))


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
    try:
        recipe = Recipe(**given, **{key: _frozen(value) for key, value in table.items()})
    except TypeError:
        missing = known - table.keys() - {"enable", "mask"}
        raise BadInput(f"{path}: missing {', '.join(sorted(missing))}") from None
    for field, fine in _checks(recipe).items():
        if not fine:
            raise BadInput(f"{path}: {field} is not right: {getattr(recipe, field)!r}")
    return recipe


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
    }


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:57] + "...")
