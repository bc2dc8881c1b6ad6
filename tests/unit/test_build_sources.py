"""Finding Debian among a machine's apt sources, in both formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from copper.image.build import sources
from copper.image.build.sources import Release, Source, choose, deb822, one_line, parse_releases

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

DEB822 = f"""\
# the main archive
Types: deb deb-src
URIs: http://mirror.example.org/debian
Suites: bookworm bookworm-updates trixie
Components: main contrib
Signed-By: {KEYRING}

Types: deb
URIs: http://mirror.example.org/debian-security/
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBGPL0BUBEADmW5NdOOHwPIJlgPu6JDcKw/NZJPR8lsD3K87ZM18gzyQZJD+w
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb-src
URIs: http://mirror.example.org/debian
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://off.example.org/debian
Suites: bookworm
Components: main
"""

ONE_LINE = f"""\
# deb http://off.example.org/debian bookworm main
deb [signed-by={KEYRING} arch=amd64] http://mirror.example.org/debian/ bookworm main contrib # here
deb-src http://mirror.example.org/debian bookworm main
deb http://security.example.org/debian-security bookworm-security main
deb [trusted=yes] file:/srv/local ./
"""


def suites(found: tuple[Source, ...]) -> list[tuple[str, tuple[str, ...]]]:
    return [(source.uris[0], source.suites) for source in found]


def test_deb822_entries_that_provide_the_suite() -> None:
    found = choose("bookworm", deb822(DEB822))
    assert suites(found) == [
        ("http://mirror.example.org/debian/", ("bookworm", "bookworm-updates")),
        ("http://mirror.example.org/debian-security/", ("bookworm-security",)),
    ]
    assert dict(found[0].options) == {"Signed-By": KEYRING}


def test_one_line_entries_that_provide_the_suite() -> None:
    found = choose("bookworm", one_line(ONE_LINE))
    assert suites(found) == [
        ("http://mirror.example.org/debian/", ("bookworm",)),
        ("http://security.example.org/debian-security/", ("bookworm-security",)),
    ]
    assert dict(found[0].options) == {"Signed-By": KEYRING}
    assert found[0].components == ("main",)


def test_a_key_within_an_entry_survives_being_written() -> None:
    (security,) = choose("bookworm", deb822(DEB822))[1:]
    assert deb822(security.stanza()) == [security]


def test_another_vendor_with_the_same_suite_name_is_left_out() -> None:
    vendor = one_line("deb http://php.example.org/debian bookworm main")
    known = [Release("http://php.example.org/debian/", "bookworm", "bookworm", "A vendor")]
    assert choose("bookworm", vendor, known) == ()


def test_a_suite_by_its_other_name_is_what_apt_found_it_to_be() -> None:
    entry = one_line("deb http://mirror.example.org/debian oldstable main")
    known = [Release("http://mirror.example.org/debian/", "oldstable", "bookworm", "Debian")]
    assert len(choose("bookworm", entry, known)) == 1
    assert choose("trixie", entry, known) == ()


def test_what_apt_has_not_downloaded_yet_is_not_known() -> None:
    listing = (
        "http://mirror.example.org/debian/\tbookworm\tbookworm\tDebian\n"
        "http://new.example.org/debian/\tbookworm\t$(CODENAME)\t$(ORIGIN)\n"
    )
    (release,) = parse_releases(listing)
    assert release == Release("http://mirror.example.org/debian/", "bookworm", "bookworm", "Debian")


def test_a_folder_is_read_as_apt_reads_it(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d/debian.sources").write_text(DEB822)
    (tmp_path / "sources.list.d/old.sources.disabled").write_text(DEB822)
    assert len(sources.read_all(tmp_path)) == 3 + 2
    assert sources.read_all(tmp_path / "nothing") == []


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://mirror.example.org/debian/", "http://mirror.example.org/debian/"),
        ("https://me:secret@mirror.example.org:8443/d/", "https://mirror.example.org:8443/d/"),
    ],
)
def test_passwords_of_a_mirror_stay_out_of_the_guest(uri: str, shown: str) -> None:
    source = Source((uri,), ("bookworm",), ("main",))
    assert source.without_secrets().uris == (shown,)
