"""Where this machine gets Debian from: its own apt sources, in both of apt's formats.

An image is built from the mirror that its machine already trusts and reaches; no address is ours.
Taken are entries that offer a suite (and its -updates and -security) with the component `main`,
unless apt knows that their origin is not Debian; deb822: sources.list(5), deb822(5).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from copper.image.build.run import run
from copper.model.errors import CopperError

ETC_APT = Path("/etc/apt")


@dataclass(frozen=True)
class Source:
    """One entry: every URI with every suite."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()  # deb822 names: Signed-By, Trusted …

    def stanza(self) -> str:
        """The entry in deb822."""
        fields = (
            ("Types", "deb"),
            ("URIs", " ".join(self.uris)),
            ("Suites", " ".join(self.suites)),
            ("Components", " ".join(self.components)),
            *self.options,
        )
        return "".join(f"{name}: {value}\n" for name, value in fields)

    def without_secrets(self) -> Source:
        """The entry without user names and passwords in its addresses."""
        return replace(self, uris=tuple(map(_without_secrets, self.uris)))


@dataclass(frozen=True)
class Release:
    """What apt knows of one suite of one mirror once it has read its Release file."""

    uri: str
    suite: str
    codename: str
    origin: str


def discover(suite: str, *, etc: Path = ETC_APT) -> tuple[Source, ...]:
    """This machine's entries that provide a suite. Raises CopperError when there are none."""
    found = choose(suite, read_all(etc), known_releases())
    if not found:
        raise CopperError(
            f"no Debian source of this machine provides {suite}",
            advice=f"add one with the suite {suite} and the component main to {etc}/sources.list.d",
        )
    return found


def read_all(etc: Path = ETC_APT) -> list[Source]:
    """Every binary entry of a configuration folder, in apt's order."""
    found: list[Source] = []
    main = etc / "sources.list"
    if main.is_file():
        found += one_line(main.read_text(errors="replace"))
    # apt reads no other ending, so `x.sources.disabled` and editors' backups are left out
    for path in sorted((etc / "sources.list.d").glob("*")):
        if path.suffix == ".list":
            found += one_line(path.read_text(errors="replace"))
        elif path.suffix == ".sources":
            found += deb822(path.read_text(errors="replace"))
    return found


def choose(
    suite: str, sources: Iterable[Source], releases: Iterable[Release] = ()
) -> tuple[Source, ...]:
    """The part of the entries that is Debian's and provides a suite, in their order."""
    known = {(_slash(release.uri), release.suite): release for release in releases}
    chosen: list[Source] = []
    for source in sources:
        if "main" not in source.components:
            continue
        for uri in source.uris:
            suites = tuple(s for s in source.suites if _provides(s, suite, known.get((uri, s))))
            if suites:
                chosen.append(replace(source, uris=(uri,), suites=suites, components=("main",)))
    return tuple(dict.fromkeys(chosen))


def _provides(name: str, suite: str, release: Release | None) -> bool:
    wanted = (suite, f"{suite}-updates", f"{suite}-security")
    if release is None:
        return name in wanted
    # a mirror may be asked for "stable": what it answered with counts
    return release.origin == "Debian" and release.codename in wanted


def known_releases() -> list[Release]:
    """What this machine's apt has downloaded so far."""
    listing = "$(REPO_URI)\t$(RELEASE)\t$(CODENAME)\t$(ORIGIN)"
    output = run(["apt-get", "indextargets", "--format", listing, "Created-By: Packages"])
    return parse_releases(output)


def parse_releases(output: str) -> list[Release]:
    """`apt-get indextargets` with the four columns that `known_releases` asks for."""
    rows = (line.split("\t") for line in output.splitlines())
    # a target that was never downloaded keeps the words "$(CODENAME)" and "$(ORIGIN)"
    return [Release(*row) for row in rows if len(row) == 4 and "$(" not in row[2] + row[3]]


def deb822(text: str) -> list[Source]:
    """The entries of a .sources file."""
    found = []
    for entry in _stanzas(text):
        enabled = entry.pop("enabled", "yes").strip().lower() not in ("no", "false", "0", "off")
        if not enabled or "deb" not in entry.pop("types", "").split():
            continue
        found.append(
            Source(
                uris=tuple(_slash(uri) for uri in entry.pop("uris", "").split()),
                suites=tuple(entry.pop("suites", "").split()),
                components=tuple(entry.pop("components", "").split()),
                options=_options(entry),
            )
        )
    return found


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    """Fields by their lower-case names; a value keeps its continuation lines."""
    for block in re.split(r"\n[ \t]*\n", text):
        entry: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t") and name:
                entry[name] += "\n" + line
            elif ":" in line:
                name, value = line.split(":", 1)
                name = name.strip().lower()
                entry[name] = value.strip()
        if entry:
            yield entry


def one_line(text: str) -> list[Source]:
    """The entries of a sources.list file: `deb [ options ] uri suite component…`."""
    found = []
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<rest>\S.*)", line.strip())
        if not match:
            continue
        uri, *words = match["rest"].split("#")[0].split()
        pairs = (word.partition("=") for word in shlex.split(match["options"] or ""))
        if words:
            options = _options({name.lower(): value for name, _, value in pairs})
            found.append(Source((_slash(uri),), (words[0],), tuple(words[1:]), options))
    return found


# What decides whether a mirror is believed; architectures, languages and targets are ours.
_KEPT = {
    "signed-by": "Signed-By",
    "trusted": "Trusted",
    "check-valid-until": "Check-Valid-Until",
    "check-date": "Check-Date",
    "allow-insecure": "Allow-Insecure",
    "allow-weak": "Allow-Weak",
}


def _options(given: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((proper, given[name]) for name, proper in _KEPT.items() if name in given)


def _slash(uri: str) -> str:
    return uri if uri.endswith("/") else uri + "/"


def _without_secrets(uri: str) -> str:
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
