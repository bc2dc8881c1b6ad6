"""Apt over a folder of our own: this machine's mirrors and proxies, nothing of its installed state.

    FOLDER/SUITE/apt.conf, debian.sources    written anew each time, from this machine's settings
    FOLDER/SUITE/lists/                      what the mirrors offer, at most a day old
    FOLDER/debs/                             packages; they stay for the next build

Resolving and downloading happen here, so a build needs no network once its packages are cached,
and the versions of a build are known before it begins.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote

from copper.image.build.run import run
from copper.image.build.sources import Source
from copper.model.errors import BadInput, CopperError

# Lists younger than this many seconds are not asked for again.
FRESH = 24 * 3600
AGAIN_S = (5, 20)  # a mirror that fails is asked again after so long


@dataclass(frozen=True)
class Package:
    """A package in the one version that the lists choose."""

    name: str
    version: str
    file: Path  # in the folder of debs, once fetched


class Apt:
    """Apt for one suite in one folder. Not safe for two processes at once: hold a lock."""

    def __init__(self, folder: Path, suite: str, sources: Sequence[Source]) -> None:
        self.suite = suite
        self.debs = folder / "debs"
        self.lists = folder / suite / "lists"
        self.sources = folder / suite / "debian.sources"
        self._home = home = folder / suite
        self._config = self._home / "apt.conf"
        self._stamp = self._home / "updated"
        # apt prints no address of what is in its archive already: that folder stays empty
        for directory in (self.debs, self.lists / "partial", home / "none/partial", home / "empty"):
            directory.mkdir(parents=True, exist_ok=True)
        _write(self._home / "status", "")  # nothing is installed
        _write(self.sources, "\n".join(source.stanza() for source in sources))
        _write(self._config, self._settings(machine_settings()))

    def update(self) -> None:
        """Fetch the lists, unless they are fresh. Old ones serve when the mirror is silent."""
        content = self.sources.read_bytes() + self._config.read_bytes()
        wanted = sha256(content).hexdigest()
        have = self._stamp.read_text() if self._stamp.exists() else ""
        if have == wanted and time.time() - self._stamp.stat().st_mtime < FRESH:
            return
        try:
            self._ask("apt-get", "update", "--error-on=any", "-o", "Acquire::Retries=3")
        except CopperError:
            if have != wanted:
                raise
            return
        self._stamp.write_text(wanted)

    def check(self, names: Iterable[str]) -> None:
        """Raise BadInput when a package is not in the suite."""
        wanted = sorted(set(names))
        policy = self._apt("apt-cache", "policy", *wanted)
        stanzas = re.findall(r"^(\S+?)(?::\w+)?:\n(?: .*\n)*? +Candidate: (\S+)", policy, re.M)
        there = {name for name, candidate in stanzas if candidate != "(none)"}
        if missing := [name for name in wanted if name not in there]:
            raise BadInput(f"Debian {self.suite} has no package {', '.join(missing)}")

    def resolve(self, wanted: Sequence[str]) -> list[Package]:
        """These packages (or apt patterns) with all that they depend on, by name."""
        try:
            plan = self._apt("apt-get", "install", "--yes", "--print-uris", *wanted)
        except CopperError as error:
            raise BadInput(
                f"these packages cannot be installed together: {error.message}"
            ) from error
        return sorted(self._parse(plan), key=lambda package: package.name)

    def kernel(self, name: str) -> Package:
        """The kernel package of that name, or the one that this meta-package stands for."""
        record = self._apt("apt-cache", "show", "--no-all-versions", name)
        depends = re.search(r"^Depends:.*?\b(linux-image-[a-z0-9.+-]+)", record, re.M)
        plan = self._apt("apt-get", "download", "--print-uris", depends[1] if depends else name)
        return self._parse(plan)[0]

    def fetch(self, packages: Iterable[Package]) -> None:
        """Download what is not in the folder yet; apt checks each against the signed lists."""
        missing = [package for package in packages if not package.file.exists()]
        if not missing:
            return
        partial = self.debs / "partial"
        partial.mkdir(exist_ok=True)
        wanted = [f"{package.name}={package.version}" for package in missing]
        self._ask("apt-get", "download", "-o", "Acquire::Retries=3", *wanted, cwd=partial)
        for package in missing:  # only what is whole gets here
            (partial / package.file.name).rename(package.file)

    def _parse(self, plan: str) -> list[Package]:
        """The lines `'URI' NAME_VERSION_ARCHITECTURE.deb SIZE HASH` of --print-uris."""
        found = []
        for file in re.findall(r"^'[^']+' (\S+\.deb) ", plan, re.M):
            name, version, _ = file.split("_")
            found.append(Package(name, unquote(version), self.debs / file))
        return found

    def _ask(self, *argv: str, cwd: Path | None = None) -> None:
        """As `_apt`, of mirrors: one in the middle of its own update answers properly a little later."""
        for pause_s in AGAIN_S:
            try:
                self._apt(*argv, cwd=cwd)
                return
            except CopperError:
                time.sleep(pause_s)
        self._apt(*argv, cwd=cwd)

    def _apt(self, *argv: str, cwd: Path | None = None) -> str:
        return run(argv, env={"APT_CONFIG": str(self._config)}, cwd=cwd)

    def _settings(self, inherited: str) -> str:
        """An apt.conf(5) that reads nothing of /etc/apt but the mirrors' keys and passwords."""
        empty = self._home / "empty"
        return f"""\
{inherited}
Dir::Etc::Main "/dev/null";
Dir::Etc::Parts "{empty}";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "{empty}";
Dir::Etc::SourceList "{self.sources}";
Dir::Etc::SourceParts "{empty}";
Dir::State "{self._home}";
Dir::State::Lists "{self.lists}";
Dir::State::Status "{self._home}/status";
Dir::State::Extended_states "{self._home}/extended_states";
Dir::Cache "{self._home}";
Dir::Cache::Archives "{self._home}/none";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
"""


def _write(path: Path, text: str) -> None:
    """Leave a file that is right alone: apt's own cache is younger than what it was made from."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def machine_settings() -> str:
    """How this machine reaches mirrors: proxies, certificates, retries and date checks."""
    dump = run(["apt-config", "dump", "--format", '%F "%v";%n', "Acquire"])
    lines = (line for line in dump.splitlines() if not line.startswith(_NOT_INHERITED))
    return "\n".join(line for line in lines if not line.endswith('"";'))


_NOT_INHERITED = ("Acquire::IndexTargets", "Acquire::Languages", "Acquire::cdrom")
