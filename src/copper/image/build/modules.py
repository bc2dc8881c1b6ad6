"""Which modules a name needs, in the order to load them: what `modprobe --show-depends` does.

Works over an unpacked kernel package, of any kernel version, from the tables that depmod and the
kernel's own build write (modules.dep(5), modules.alias, modules.softdep, modules.builtin).
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from copper.model.errors import BadInput


class Modules:
    """The modules of one kernel version."""

    def __init__(self, directory: Path) -> None:
        """`directory` is lib/modules/VERSION, after depmod."""
        self.directory = directory
        self._paths: dict[str, str] = {}
        self._needs: dict[str, list[str]] = {}
        self._first: dict[str, list[str]] = {}
        self._aliases: list[tuple[str, str]] = []
        for line in _lines(directory / "modules.dep"):
            path, _, needs = line.partition(":")
            self._paths[name_of(path)] = path
            self._needs[name_of(path)] = [name_of(need) for need in needs.split()]
        self._builtin = {name_of(line) for line in _lines(directory / "modules.builtin")}
        for line in _lines(directory / "modules.softdep"):
            self._read_softdep(line.split())
        for line in _lines(directory / "modules.alias"):
            match line.split():
                case ["alias", pattern, module]:
                    self._aliases.append((pattern, name_of(module)))

    def _read_softdep(self, words: list[str]) -> None:
        """`softdep NAME pre: A B post: C`."""
        if len(words) > 2 and words[0] == "softdep":
            before = " ".join(words[2:]).partition("post:")[0].replace("pre:", " ")
            self._first[name_of(words[1])] = before.split()

    def load_order(self, names: Iterable[str]) -> list[Path]:
        """The files to load, each once and after what it needs; nothing for what is built in.

        Raises BadInput for a name that this kernel knows neither as a module nor as built in.
        """
        order: dict[str, None] = {}
        for name in names:
            if not self._add(name_of(name), order, on_the_way=()):
                raise BadInput(f"kernel {self.directory.name} has no module {name}")
        return [self.directory / self._paths[name] for name in order]

    def _add(self, name: str, order: dict[str, None], on_the_way: tuple[str, ...]) -> bool:
        """Put a module after what it needs; false when there is no such thing."""
        if name in order or name in on_the_way or name in self._builtin:
            return True
        if name not in self._paths:
            found = [module for pattern, module in self._aliases if fnmatchcase(name, pattern)]
            return any([self._add(module, order, (*on_the_way, name)) for module in found])
        # what a soft dependency names may not exist: then it is not needed
        for need in self._first.get(name, []):
            self._add(name_of(need), order, (*on_the_way, name))
        # modules.dep lists the nearest first; the deepest has to be loaded first
        for need in reversed(self._needs[name]):
            self._add(need, order, (*on_the_way, name))
        order[name] = None
        return True


def name_of(path: str) -> str:
    """`kernel/drivers/char/virtio-rng.ko.xz` → `virtio_rng`."""
    return PurePosixPath(path).name.partition(".ko")[0].replace("-", "_")


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
