"""A VM that ends in the middle of what is done to it: nothing of it comes back, and whoever asked hears why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from copper.model.api import VmLimits
from copper.model.errors import Conflict, CopperError, NotFound
from tests.cluster.hosts import Place, a_place


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with a_place() as made:
        yield made


async def test_a_vm_that_ends_while_it_is_frozen_leaves_no_image(place: Place) -> None:
    await place.boot()
    held = place.room.faults.plan("freeze", "hang")
    freezing = asyncio.create_task(place.host.freeze("a-0"))
    await held.met.wait()
    await place.host.end("a-0")
    held.go_on.set()
    with pytest.raises(Conflict, match="VM a-0 ended while it was forked"):
        await freezing
    assert place.room.frozen == {}
    place.nothing_is_left()


async def test_a_vm_whose_end_began_when_its_freeze_was_done_leaves_no_image(place: Place) -> None:
    await place.boot()
    freeze, end = (place.room.faults.plan(verb, "hang") for verb in ("freeze", "end"))
    freezing = asyncio.create_task(place.host.freeze("a-0"))
    await freeze.met.wait()
    ending = asyncio.create_task(place.host.end("a-0"))
    await end.met.wait()
    freeze.go_on.set()
    with pytest.raises(Conflict, match="VM a-0 ended while it was forked"):
        await freezing
    end.go_on.set()
    await ending
    assert place.room.frozen == {}
    place.nothing_is_left()


async def test_a_vm_that_ends_while_it_is_paused_has_no_record_again(place: Place) -> None:
    await place.boot()
    held = place.room.faults.plan("pause", "hang")
    pausing = asyncio.create_task(place.host.pause("a-0"))
    await held.met.wait()
    await place.host.end("a-0")
    held.go_on.set()
    with pytest.raises(CopperError):
        await pausing
    assert await place.host.vms() == []
    place.nothing_is_left()


async def test_a_vm_that_ends_while_a_limit_waits_for_its_turn_has_no_record_again(
    place: Place,
) -> None:
    await place.boot()
    held = place.room.faults.plan("freeze", "hang")
    freezing = asyncio.create_task(place.host.freeze("a-0"))
    await held.met.wait()
    limiting = asyncio.create_task(place.host.limit("a-0", VmLimits(cpus=0.5)))
    await asyncio.sleep(0)  # it is told now
    await place.host.end("a-0")
    held.go_on.set()
    with pytest.raises(Conflict):
        await freezing
    with pytest.raises(NotFound):
        await limiting
    place.nothing_is_left()
