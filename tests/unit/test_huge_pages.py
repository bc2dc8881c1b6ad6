"""Whom a host gives huge pages, and when: by what VMs have of their own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from copper.host.huge_pages import LEAST_BYTES, SHARE, HugePages
from copper.model.errors import CopperError
from copper.model.settings import MIB
from copper.vmm.paging import gives_huge_pages


class Writer:
    """A VM that has what it is said to have."""

    def __init__(self, name: str, own_bytes: int, *, fails: bool = False) -> None:
        self.name, self.own, self.asked, self.fails = name, own_bytes, 0, fails

    def touched_bytes(self) -> int:
        return self.own

    async def collapse(self) -> int:
        self.asked += 1
        if self.fails:
            raise CopperError("QEMU ended while its memory was asked for")
        return 2 * MIB


def looked(vms: list[Writer], *, times: int = 1, short: bool = False, wanted: bool = True) -> None:
    host = HugePages(lambda: vms, is_short=lambda: short, wanted=lambda: wanted)

    async def look() -> None:
        for _ in range(times):
            await host.look()

    asyncio.run(look())


def test_who_has_written_much_is_asked_once() -> None:
    idle, busy = Writer("a-1", LEAST_BYTES - 1), Writer("a-2", 64 * MIB)
    looked([idle, busy], times=5)
    assert (idle.asked, busy.asked) == (0, 1)


@pytest.mark.parametrize(("grown", "asked"), [(LEAST_BYTES - 1, 1), (LEAST_BYTES, 2)])
def test_a_small_one_is_asked_again_when_it_has_grown(grown: int, asked: int) -> None:
    vm = Writer("a-1", LEAST_BYTES)
    host = HugePages(lambda: [vm], is_short=lambda: False, wanted=lambda: True)
    asyncio.run(host.look())
    vm.own += grown
    asyncio.run(host.look())
    assert vm.asked == asked


def test_one_that_writes_all_the_time_is_asked_a_few_times_in_all() -> None:
    vm = Writer("a-1", 0)
    host = HugePages(lambda: [vm], is_short=lambda: False, wanted=lambda: True)
    while vm.own < 4096 * MIB:
        vm.own += LEAST_BYTES
        asyncio.run(host.look())
    assert vm.asked < 5 * SHARE + SHARE  # it doubles five times above SHARE * LEAST_BYTES


def test_one_that_gave_memory_back_is_asked_when_it_grows_again() -> None:
    vm = Writer("a-1", 200 * MIB)
    host = HugePages(lambda: [vm], is_short=lambda: False, wanted=lambda: True)
    for own in (200, 20, 20, 40):
        vm.own = own * MIB
        asyncio.run(host.look())
    assert vm.asked == 2


def test_another_vm_of_the_same_name_begins_anew() -> None:
    vms = [Writer("a-1", 200 * MIB)]
    host = HugePages(lambda: vms, is_short=lambda: False, wanted=lambda: True)
    asyncio.run(host.look())
    vms.clear()
    asyncio.run(host.look())
    vms.append(Writer("a-1", 100 * MIB))
    asyncio.run(host.look())
    assert vms[0].asked == 1


def test_nobody_is_asked_where_memory_is_short_or_huge_pages_are_not_wanted() -> None:
    vm = Writer("a-1", 200 * MIB)
    looked([vm], short=True)
    looked([vm], wanted=False)
    assert vm.asked == 0


def test_one_that_ends_meanwhile_keeps_nobody_from_being_asked() -> None:
    ended, other = Writer("a-1", 200 * MIB, fails=True), Writer("a-2", 200 * MIB)
    looked([ended, other], times=3)
    assert (ended.asked, other.asked) == (1, 1)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("always [madvise] never", True),
        ("[always] madvise never", True),
        ("always madvise [never]", False),
        (None, False),
    ],
)
def test_a_host_says_whether_it_gives_huge_pages(
    tmp_path: Path, said: str | None, wanted: bool
) -> None:
    if said is not None:
        (tmp_path / "enabled").write_text(said + "\n")
    assert gives_huge_pages(tmp_path / "enabled") == wanted
