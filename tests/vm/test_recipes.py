"""The recipes for services: each page is typed word for word, with real guests and real clients of theirs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.machinery import ROOT, a_copper, images_folder
from tests.vm.pages import Example, commands_of, examples_of
from tests.vm.reader import Reader

FOLDER = ROOT / "docs/how-to/recipes"
BEFORE = "README"  # what every page takes for granted
SOAK = bool(os.environ.get("COPPER_SOAK"))  # scripts/soak: pages that take long as well
LONG = ["rabbitmq", "redis"]  # their images take minutes where processors are emulated
DEADLINE_S = 3600 if SOAK else 600  # for a block of a page
pytestmark = pytest.mark.timeout(7200 if SOAK else 900)  # the first one builds the image
PAGES = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != BEFORE)
# every block that a page marks as not run, by its reason
NOT_RUN = {
    BEFORE: ["the addresses here lead to no mirror; the pages themselves show the other ways"]
}


def blocks(page: str) -> list[Example]:
    return examples_of((FOLDER / f"{page}.md").read_text())


def a_free_port() -> int:
    """One that nobody has at this moment: those that pages name may be another's on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@pytest.fixture
def reader(accel: str, micro: str, debian: str, tmp_path: Path) -> Iterator[Reader]:
    """Somebody who has begun as the first page says, on a machine with package lists."""
    if not list(Path("/var/lib/apt/lists").glob("*Packages*")):
        subprocess.run(["apt-get", "update"], check=True)
    names = f"127.0.0.1:{a_free_port()}"
    instead = {
        "127.0.0.1 -p 10053": names.replace(":", " -p "),
        "127.0.0.1:10053": names,
        "127.0.0.1:8080": f"127.0.0.1:{a_free_port()}",
    }
    with a_copper(accel, COPPER_DNS=names) as copper:
        copper.stop()  # the page says when to start it
        # a page's own image needs few packages that are not in the tests' cache
        (copper.settings.state_dir / "cache").symlink_to(images_folder() / "cache")
        made = Reader(copper, tmp_path, instead, DEADLINE_S, HOME=str(tmp_path))
        try:
            follow(made, BEFORE)
            yield made
        finally:
            copper.run("copper", "down")
            copper.process = None
            # what a page that was not followed to its end leaves: it has no metric, and tests/conftest.py's has one
            route = ["unreachable", "198.51.100.0/24"]
            shown = subprocess.run(
                ["ip", "route", "show"], capture_output=True, text=True, check=True
            )
            if any(line.split() == route for line in shown.stdout.splitlines()):
                subprocess.run(["ip", "route", "del", *route], check=True)
            for pid in tmp_path.glob("*.pid"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid.read_text()), signal.SIGTERM)


def follow(reader: Reader, page: str) -> None:
    """Types what the page says, and compares what it says one sees."""
    followed = [block for block in blocks(page) if not block.not_run]
    assert followed and {block.kind for block in followed} == {"console"}
    for block in followed:
        print(f"{page}, line {block.line}:\n{block.text}")
        reader.type(commands_of(block.text))


@pytest.mark.parametrize("page", [page for page in PAGES if SOAK or page not in LONG])
def test_a_recipe_does_what_its_page_says(reader: Reader, page: str) -> None:
    follow(reader, page)
    assert reader.copper.client.clusters() == []
    assert reader.copper.client.audit() == []


def test_every_block_is_run_or_has_a_reason() -> None:
    found = {
        page: [one.not_run for one in blocks(page) if one.not_run] for page in (BEFORE, *PAGES)
    }
    assert {page: why for page, why in found.items() if why} == NOT_RUN
