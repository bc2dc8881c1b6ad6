"""A host whose memory becomes short and that has swap: whose memory goes there, and that nobody is paused for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from copper.fake.hypervisor import FakeMachine
from copper.host.memory_guard import MemoryGuard
from copper.host.reclaim import AGAIN_S, Candidate, Reclaim, choose
from copper.model.settings import MIB
from tests.cluster.hosts import Place, a_place

BUSY = Candidate("busy", 50 * MIB, stands=False)
STANDS = Candidate("stands", 5 * MIB, stands=True)
SMALL = Candidate("small", MIB // 2, stands=True)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with a_place() as made:
        yield made


def test_who_stands_goes_first_and_then_the_others_in_their_order() -> None:
    other = Candidate("other", 90 * MIB, stands=False)
    assert choose([SMALL, BUSY, STANDS, other], {}, 0) == "stands"
    assert choose([SMALL, BUSY, STANDS, other], {"stands": 0}, 1) == "busy"
    assert choose([SMALL, BUSY, STANDS, other], {"stands": 0, "busy": 1}, 2) == "other"


def test_a_turn_comes_again_after_a_while() -> None:
    assert choose([BUSY], {"busy": 10}, 10 + AGAIN_S - 1) is None
    assert choose([BUSY], {"busy": 10}, 10 + AGAIN_S) == "busy"
    assert choose([], {}, 0) is None


async def swapped(place: Place, free_mib: int) -> bool:
    """Whether a guard that sees so much free memory begins to page somebody out; returns when that is done."""
    before = place.room.swap_free_bytes
    guard = MemoryGuard(place.host.agent.vms)
    await guard.look(free_mib * MIB)
    await guard.close()
    return place.room.swap_free_bytes < before


async def test_memory_that_becomes_short_is_found_in_swap(place: Place) -> None:
    keep = place.host.agent.vms.settings.keep_free_mib
    place.room.swap_bytes = 1024 * MIB
    await place.boot()
    process = place.room.find("a-0")
    place.room.use(process, 200 * MIB, 0)
    free = place.room.room_bytes()
    assert not await swapped(place, keep)
    assert place.room.room_bytes() == free
    assert await swapped(place, keep * 5 // 8)  # more than half: nobody is paused
    assert place.room.room_bytes() == free + 200 * MIB
    assert place.host.agent.vms.get("a-0").state == "running"
    assert place.host.agent.vms.get("a-0").machine.own_bytes() == 200 * MIB  # still what it costs


async def test_without_swap_or_when_it_is_full_nothing_is_begun(place: Place) -> None:
    await place.boot()
    place.room.use(place.room.find("a-0"), 200 * MIB, 0)
    reclaim = Reclaim(place.host.agent.vms)
    candidate = Candidate("a-0", 200 * MIB, stands=False)
    assert not reclaim.soon([candidate])
    place.room.swap_bytes = 64 * MIB
    assert not reclaim.soon([candidate])
    place.room.swap_bytes = 65 * MIB
    assert reclaim.soon([candidate])
    assert not reclaim.soon([candidate])  # one at a time
    await reclaim.close()
    assert place.room.swap_free_bytes == 0


async def test_one_that_cannot_be_paged_out_holds_up_nobody(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place.room.swap_bytes = 1024 * MIB
    await place.boot()
    await place.boot(1)

    pages_out = FakeMachine.page_out

    def cannot(machine: FakeMachine) -> None:
        if machine.name == "a-0":
            raise PermissionError(1, "Operation not permitted")
        pages_out(machine)

    monkeypatch.setattr(FakeMachine, "page_out", cannot)
    reclaim = Reclaim(place.host.agent.vms)
    candidates = [Candidate(name, 5 * MIB, stands=False) for name in ("gone-0", "a-0", "a-1")]
    for _ in candidates:
        assert reclaim.soon(candidates)
        await reclaim.close()
    assert "VM a-0 cannot be paged out: Operation not permitted" in caplog.text
    assert place.room.swap_free_bytes < 1024 * MIB
    assert not reclaim.soon(candidates)
