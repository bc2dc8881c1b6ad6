"""Every example under examples/ runs, does what its page says, and comes to what somebody else comes to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.machinery import ROOT, Copper, a_copper
from tests.vm.pages import Example, commands_of, examples_of
from tests.vm.reader import Reader

pytestmark = pytest.mark.timeout(1800)  # the first one builds the image
PAGES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("examples/**/README.md"))
# every block that a page marks as not run, by its reason
NOT_RUN = {
    "examples/README.md": [
        "the first build takes minutes, and whoever follows these pages has the image"
    ],
    "examples/mapreduce/README.md": ["it takes minutes; a test runs it with a smaller text"],
}


@pytest.fixture(scope="module")
def farm(accel: str, micro: str, debian_dev: str) -> Iterator[Copper]:
    """One Copper for all examples: each has a virtual cluster of its own there."""
    with a_copper(accel) as made:
        yield made


@pytest.fixture
def reader(farm: Copper, tmp_path: Path) -> Reader:
    """Somebody in a checkout."""
    checkout = tmp_path / "checkout"
    for name in ("src", "examples"):
        shutil.copytree(ROOT / name, checkout / name)
    return Reader(farm, checkout)


def blocks(page: str) -> list[Example]:
    return examples_of((ROOT / page).read_text())


def follow(reader: Reader, page: str) -> None:
    """Types what the page says, and compares what it says one sees."""
    followed = [block for block in blocks(page) if not block.not_run]
    assert followed and {block.kind for block in followed} == {"console"}
    for block in followed:
        print(f"{page}, line {block.line}:\n{block.text}")
        reader.type(commands_of(block.text))


@pytest.mark.parametrize("example", ["build", "hello", "loop", "mapreduce", "proxy"])
def test_an_example_does_what_its_page_says(reader: Reader, example: str) -> None:
    follow(reader, f"examples/{example}/README.md")
    assert [vm.name for vm in reader.copper.client.vms(state="running")] == []


def test_every_example_is_run_or_has_a_reason() -> None:
    found = {page: [block.not_run for block in blocks(page) if block.not_run] for page in PAGES}
    assert {page: why for page, why in found.items() if why} == NOT_RUN


def test_words_are_counted_as_coreutils_count_them(reader: Reader) -> None:
    command = "python examples/mapreduce/scaling.py debian-12-dev --out scaled"
    said = reader.run(f"{command} --size 400000 --workers 1 2 --rounds 1")
    assert "all counts are those of coreutils" in said
    scaled = reader.checkout / "scaled"
    runs = json.loads((scaled / "scaling.json").read_text())["runs"]
    assert [(run["workers"], run["words"]) for run in runs] == [(1, 80000), (2, 80000)]
    assert (scaled / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "mapreduce" not in [cluster.name for cluster in reader.copper.client.clusters()]


def test_a_loop_counts_on_in_every_clone_and_leaves_nothing_out(farm: Copper, micro: str) -> None:
    master = farm.boot("counting", micro)
    farm.client.push(master, ROOT / "examples/loop/loop.sh", "/root/")
    farm.sh(master, "/root/loop.sh; until grep -q ' 2' /root/counted; do sleep 0.1; done")
    clones = farm.clone(master, 2)
    for vm in (master, *clones):
        # the next line of its own, and one more
        wait = f"until [ $(grep -c '{vm} ' /root/counted) -ge 2 ]; do sleep 0.1; done"
        lines = [line.split() for line in farm.sh(vm, f"{wait}; cat /root/counted").splitlines()]
        assert [int(count) for _, count in lines] == list(range(1, len(lines) + 1))
        names = [name for name, _ in lines]
        before = names.count(master) if vm != master else 0
        assert names == [master] * before + [vm] * (len(lines) - before)
    farm.client.kill("counting")
