"""Which control groups a host has, by what is mounted: of version 1, of version 2, or none that can be used."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

CONTROLLERS = {"cpu", "memory"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where this host has its groups: what is mounted, and the folder in it below which `copper/` is made."""

    version: int
    mounts: dict[str, Path]  # of cpu and memory; version 2 has one for both
    below: dict[str, str]

    def roots(self) -> list[Path]:
        """The folders in which `copper/` is made, that of memory last."""
        roots = [self.mounts[name] / self.below[name] for name in ("cpu", "memory")]
        return list(dict.fromkeys(roots))


def find_layout(
    mounts: Path = Path("/proc/self/mounts"), own: Path = Path("/proc/self/cgroup")
) -> Layout | None:
    """What is mounted here, version 1 first where it has the controllers; None: neither of them."""
    first: dict[str, Path] = {}
    second: Path | None = None
    with contextlib.suppress(OSError):
        for line in mounts.read_text().splitlines():
            _, where, kind, options, *_ = line.split(" ")
            if kind == "cgroup":
                first |= dict.fromkeys(CONTROLLERS & set(options.split(",")), Path(where))
            elif kind == "cgroup2" and second is None:
                second = Path(where)
    if first.keys() == CONTROLLERS:
        groups = groups_in(own)
        return Layout(1, first, {name: groups.get(name, "") for name in CONTROLLERS})
    if second is not None:
        with contextlib.suppress(OSError):
            if set((second / "cgroup.controllers").read_text().split()) >= CONTROLLERS:
                return Layout(2, dict.fromkeys(CONTROLLERS, second), dict.fromkeys(CONTROLLERS, ""))
    return None


def groups_in(path: Path) -> dict[str, str]:
    """A /proc/PID/cgroup: the group by controller; version 2's is that of all which are not named."""
    groups: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            _, names, group = line.split(":", 2)
            if names:
                groups |= dict.fromkeys(names.split(","), group.lstrip("/"))
            else:
                groups = dict.fromkeys(CONTROLLERS, group.lstrip("/")) | groups
    return groups
