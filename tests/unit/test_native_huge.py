"""native/huge.c: which pages of a process that stands for QEMU are put into huge ones, and that all stays as it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from copper.image.layers import Layer
from copper.vmm.layers import PAGE, SKIP_ZERO, new_layer, seal
from copper.vmm.paging import gives_huge_pages
from tests.unit.test_native_layers import PAGES, Guest, born, new_guest

__all__ = ["born"]  # a fixture

HUGE = 512  # pages in a huge one
SURE = PAGES // HUGE - 1  # huge ones that fit in, wherever memory begins


async def collapse(guest: Guest) -> int:
    """Pages that are in huge ones now and were not."""
    gained, offset = await guest.control.collapse(0)
    while offset:
        pages, offset = await guest.control.collapse(offset)
        gained += pages
    return gained


def huge_bytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.findall(r"^AnonHugePages:\s+(\d+)", text, re.M)[0]) << 10


@pytest.fixture
def huge() -> None:
    if not gives_huge_pages():
        pytest.skip("this host has no huge pages for those who ask")


async def test_what_is_wholly_its_own_is_put_into_huge_pages(born: list[Guest], huge: None) -> None:
    guest = new_guest(born)
    guest.touch(0, PAGES)
    for page in range(0, PAGES, 100):
        guest.write(page, page % 256)
    assert huge_bytes(guest.process.pid) == 0
    gained = await collapse(guest)
    assert gained >= SURE * HUGE
    assert huge_bytes(guest.process.pid) == gained * PAGE
    assert (await guest.control.stat()).pages == PAGES
    assert await collapse(guest) == 0
    guest.check()
    await guest.save()
    guest.check()


async def test_a_page_that_is_missing_or_a_layers_keeps_its_neighbours_small(
    born: list[Guest], huge: None
) -> None:
    guest = new_guest(born)
    for first in range(0, PAGES, HUGE // 2):
        guest.touch(first, HUGE // 2 - 1)
    assert await collapse(guest) == 0
    guest.write(HUGE // 2 - 1, 1)  # not alone in its mapping from here on: it is a layer's
    await guest.save(SKIP_ZERO)
    guest.touch(0, PAGES)
    gained = await collapse(guest)
    assert (SURE - 1) * HUGE <= gained <= SURE * HUGE
    assert huge_bytes(guest.process.pid) == gained * PAGE
    guest.check([*range(0, PAGES, 100), HUGE // 2 - 1])


async def test_what_another_has_too_stays_in_small_pages(born: list[Guest], huge: None) -> None:
    guest = new_guest(born)
    guest.touch(0, PAGES)
    guest.write(7, 7)
    assert guest.tell("copy 0 0") == "ok"
    assert await collapse(guest) == 0
    assert guest.tell("end 0 0") == "ok"
    assert await collapse(guest) >= SURE * HUGE
    guest.check()


async def test_huge_pages_that_were_copied_are_each_ones_own_and_whole_again_later(
    born: list[Guest], huge: None
) -> None:
    guest = new_guest(born)
    guest.touch(0, PAGES)
    gained = await collapse(guest)
    assert guest.tell("copy 0 0") == "ok"
    for page in range(0, PAGES, 50):
        guest.write(page, 3)
    assert huge_bytes(guest.process.pid) < gained * PAGE
    assert guest.tell("end 0 0") == "ok"
    assert await collapse(guest) > 0
    assert huge_bytes(guest.process.pid) == gained * PAGE
    guest.check()


async def test_what_is_written_into_huge_pages_after_they_were_copied_ahead_is_right(
    born: list[Guest], huge: None
) -> None:
    guest, clone = new_guest(born), new_guest(born)
    for page in range(0, PAGES, 9):
        guest.write(page, page % 251)
    guest.touch(0, PAGES)
    assert await collapse(guest) >= SURE * HUGE
    fd = new_layer("ahead")
    await guest.control.precopy(fd, [])
    for page in (0, 511, 512, 700, PAGES - 1):
        guest.write(page, 255)
    await guest.control.save(fd, flags=0, most_bytes=1 << 30)
    seal(fd)
    guest.layers.append(Layer("ahead", fd))
    await clone.become(guest)
    for one in (guest, clone):
        one.check(list(range(PAGES)))
