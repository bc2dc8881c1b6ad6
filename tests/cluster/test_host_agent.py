"""A host agent over a fake hypervisor: one effect of every order, nothing left of what failed, all found again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from copper.fake.faults import Kind, Verb
from copper.model.api import VmEnded, VmLimits
from copper.model.errors import (
    BadInput,
    Conflict,
    CopperError,
    NoRoom,
    NotFound,
    Refused,
    TimedOut,
)
from copper.wire import steps
from tests.cluster.hosts import Place, a_place, order_of

MIB = 1 << 20


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with a_place() as made:
        yield made


async def until(place: Place, told: int) -> None:
    """Returns when the controller was told of so many ends."""
    while len(place.told) < told:
        place.was_told.clear()
        await place.was_told.wait()


async def test_the_same_order_twice_is_one_vm(place: Place) -> None:
    first, second = await asyncio.gather(place.host.thaw(order_of()), place.host.thaw(order_of()))
    third = await place.host.thaw(order_of())
    assert first.pid == second.pid == third.pid
    place.agree()
    assert place.names() == ["a-0"]


async def test_a_name_that_is_another_vms_is_refused(place: Place) -> None:
    await place.boot()
    other = order_of().model_copy(
        update={"identity": order_of().identity.model_copy(update={"generation": 3})}
    )
    with pytest.raises(Conflict):
        await place.host.thaw(other)
    with pytest.raises(BadInput):
        await place.host.agent.vms.put("b-0", order_of())
    with pytest.raises(NotFound):
        await place.boot(1, "no such image")
    place.agree()


async def test_a_vm_that_is_ended_while_it_starts_leaves_nothing(place: Place) -> None:
    held = place.room.faults.plan("begin", "hang")
    starting = asyncio.create_task(place.host.thaw(order_of()))
    await held.met.wait()
    assert len(place.room.processes) == 1
    await place.host.end("a-0")
    with pytest.raises(asyncio.CancelledError):
        await starting
    place.nothing_is_left()


async def test_a_vm_that_is_told_to_end_while_its_failed_start_is_undone_leaves_nothing(
    place: Place,
) -> None:
    """The controller takes back the whole fork as soon as one of its clones has failed."""
    place.room.faults.plan("begin", "fail")
    held = place.room.faults.plan("end", "hang")
    starting = asyncio.create_task(place.host.thaw(order_of()))
    await held.met.wait()
    ending = asyncio.create_task(place.host.end("a-0"))
    await asyncio.sleep(0)  # it is told now
    held.go_on.set()
    await ending
    place.nothing_is_left()
    with pytest.raises(asyncio.CancelledError):
        await starting


async def test_to_end_what_is_not_there_is_done_at_once(place: Place) -> None:
    await place.host.end("a-7")
    await place.boot()
    await asyncio.gather(place.host.end("a-0"), place.host.end("a-0"))
    await place.host.end("a-0")
    place.nothing_is_left()


async def test_a_fork_shares_what_was_frozen_and_gives_it_back(place: Place) -> None:
    await place.boot()
    place.room.set_own("a-0", 100 * MIB)
    free = place.room.room_bytes()
    frozen = await place.host.freeze("a-0")
    assert frozen.layer_bytes == 100 * MIB
    assert place.room.room_bytes() == free
    for vmid in (1, 2, 3):
        await place.boot(vmid, frozen.image)
    await place.host.release(frozen.image)
    await place.host.release(frozen.image)
    with pytest.raises(NotFound):
        await place.boot(4, frozen.image)
    # three more that have 4 MiB each, and not one more copy of the 100
    assert free - place.room.room_bytes() == 3 * place.room.own_bytes
    for vmid in (0, 1, 2):
        await place.host.end(f"a-{vmid}")
    assert place.host.agent.vms.get("a-3").status().shared_bytes == (64 + 100) * MIB
    await place.host.end("a-3")
    place.nothing_is_left()


async def test_a_deep_generation_has_no_more_layers_than_a_real_one(place: Place) -> None:
    await place.boot()
    for vmid in range(1, 21):
        image = (await place.host.freeze(f"a-{vmid - 1}")).image
        await place.boot(vmid, image)
        await place.host.release(image)
    assert max(status.layers for status in await place.host.vms()) <= 9
    for name in place.names():
        await place.host.end(name)
    place.nothing_is_left()


async def test_a_killed_agent_finds_all_its_machines_again(place: Place) -> None:
    for vmid in range(4):
        await place.boot(vmid)
    await place.host.freeze("a-0")
    await place.host.pause("a-3")
    before = {status.name: (status.pid, status.state) for status in await place.host.vms()}
    place.host.kill()
    with pytest.raises(CopperError, match="does not answer"):
        await place.host.vms()
    await place.host.start()
    assert {s.name: (s.pid, s.state) for s in await place.host.vms()} == before
    place.agree()
    assert [found for found in place.room.found() if found.thing == "memory-file"] == []
    assert place.told == []
    await place.host.agent.vms.get("a-1").guest()
    assert await place.room.call("a-1", "list") == {"verb": "list"}


async def test_what_ended_while_no_agent_was_there_is_told_and_what_nobody_needs_is_ended(
    place: Place,
) -> None:
    for vmid in range(3):
        await place.boot(vmid)
    place.host.kill()
    place.room.die("a-1")
    place.room.records.pop("a-2")
    await place.host.start()
    assert place.told == [VmEnded(vm="a-1", reason="it ended with its host")]
    assert place.names() == ["a-0"]
    place.agree()


@pytest.mark.parametrize("at", ["host.thaw-began", "host.thawed", "host.recorded", "host.running"])
async def test_an_agent_killed_in_a_thaw_leaves_what_the_next_one_can_end(
    place: Place, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.boot()
    reached = asyncio.Event()

    async def stop(name: str) -> None:
        if name == at:
            reached.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(steps, "hook", stop)
    thaw = asyncio.create_task(place.host.thaw(order_of(1)))
    await reached.wait()
    place.host.kill()
    monkeypatch.setattr(steps, "hook", None)
    await place.host.start()
    place.agree()
    assert "a-0" in place.names()
    # what was half done can be told again, or ended
    await place.host.thaw(order_of(1))
    await place.host.end("a-1")
    place.agree()
    thaw.cancel()
    await asyncio.gather(thaw, return_exceptions=True)
    place.agree()


async def test_what_a_killed_agent_still_does_has_no_effect(place: Place) -> None:
    await place.boot()
    old = place.host.agent
    place.host.kill()
    await place.host.start()
    with pytest.raises(CopperError, match="was killed"):
        await old.vms.delete("a-0")
    with pytest.raises(CopperError, match="was killed"):
        await old.vms.put("a-1", order_of(1))
    assert place.names() == ["a-0"]
    place.agree()


async def test_a_vm_that_ends_on_its_own_is_reported_with_the_reason(place: Place) -> None:
    await place.boot(0)
    await place.boot(1)
    place.room.die("a-0", "its QEMU was killed")
    place.room.run_out_of_memory("a-1")
    await until(place, 2)
    assert {end.vm: end.reason for end in place.told} == {
        "a-0": "its QEMU was killed",
        "a-1": "the guest's kernel panicked",
    }
    place.nothing_is_left()
    await place.boot(0)
    place.agree()


THAW_FAULTS: list[tuple[Verb, Kind]] = [
    ("template", "fail"),
    ("thaw", "fail"),
    ("thaw", "die"),
    ("run", "fail"),
    ("run", "die"),
    ("begin", "fail"),
    ("begin", "die"),
    ("begin", "hang"),
]


@pytest.mark.parametrize(("verb", "kind"), THAW_FAULTS)
async def test_a_thaw_that_fails_leaves_nothing(place: Place, verb: Verb, kind: Kind) -> None:
    place.room.faults.plan(verb, kind)
    with pytest.raises(CopperError) as error:
        await place.boot()
    assert isinstance(error.value, TimedOut) == (kind == "hang")
    place.nothing_is_left()
    await place.boot()
    place.agree()


@pytest.mark.parametrize("kind", ["fail", "die"])
async def test_a_freeze_that_fails_leaves_no_image(place: Place, kind: Kind) -> None:
    await place.boot()
    place.room.faults.plan("freeze", kind)
    with pytest.raises(CopperError):
        await place.host.freeze("a-0")
    assert place.room.frozen == {}
    if kind == "die":
        await until(place, 1)
        place.nothing_is_left()
    else:
        assert (await place.host.vms())[0].state == "running"
        await place.host.freeze("a-0")


async def test_an_end_that_fails_can_be_told_again(place: Place) -> None:
    await place.boot()
    place.room.faults.plan("end", "fail")
    with pytest.raises(CopperError):
        await place.host.end("a-0")
    place.agree()
    assert place.names() == ["a-0"]
    await place.host.end("a-0")
    place.nothing_is_left()


async def test_an_answer_that_is_lost_was_an_order_that_was_done(place: Place) -> None:
    place.room.faults.plan("thaw", "lose", nth=2)
    await place.boot(0)
    with pytest.raises(CopperError):
        await place.boot(1)
    assert place.names() == ["a-0", "a-1"]
    await place.boot(1)
    place.room.faults.plan("end", "lose")
    with pytest.raises(CopperError):
        await place.host.end("a-1")
    await place.host.end("a-1")
    place.agree()


async def test_a_message_that_comes_twice_has_one_effect(place: Place) -> None:
    place.room.faults.plan("thaw", "double")
    place.room.faults.plan("end", "double")
    await place.boot()
    assert len(place.room.processes) == 1
    await place.host.end("a-0")
    place.nothing_is_left()


async def test_a_message_that_comes_late_finds_what_is_there_then(place: Place) -> None:
    late = place.room.faults.plan("end", "late")
    await place.boot()
    ending = asyncio.create_task(place.host.end("a-0"))
    await late.met.wait()
    assert place.names() == ["a-0"]
    late.go_on.set()
    await ending
    place.nothing_is_left()


async def test_a_host_without_memory_refuses(place: Place) -> None:
    place.room.memory_bytes = 200 * MIB
    await place.boot()
    place.room.set_own("a-0", 0, growth=MIB)
    place.clock.advance(100)
    assert place.room.room_bytes() == (200 - 64 - 100) * MIB
    place.clock.advance(100)
    for work in (place.boot(1), place.host.freeze("a-0")):
        with pytest.raises(NoRoom):
            await work
    place.agree()


async def test_limits_and_use_are_counted(place: Place) -> None:
    place.room.growth = MIB
    await place.boot()
    place.clock.advance(10)
    (use,) = (await place.host.report()).vms
    assert (use.own_bytes, use.cpu_s) == (14 * MIB, 0.5)
    await place.host.limit("a-0", VmLimits(own_bytes=16 * MIB))
    await place.host.pause("a-0")
    place.clock.advance(100)
    await place.host.unpause("a-0")
    place.clock.advance(10)
    (use,) = (await place.host.report()).vms
    assert (use.own_bytes, use.cpu_s) == (16 * MIB, 1.0)
    await place.host.end("a-0")
    (ended,) = (await place.host.report()).ended
    assert (ended.name, ended.cpu_s) == ("a-0", 1.0)


async def test_a_suspended_cluster_takes_no_memory_and_comes_back(place: Place) -> None:
    names = [await place.boot(vmid) for vmid in range(3)]
    place.room.set_own("a-1", 50 * MIB)
    await place.host.suspend("a", names)
    assert place.names() == []
    assert place.room.room_bytes() == place.room.memory_bytes
    place.host.kill()
    await place.host.start()
    assert await place.host.suspended() == {"a": names}
    await place.host.resume("a")
    assert place.names() == names
    assert await place.host.suspended() == {}
    place.agree()


async def test_a_resume_that_fails_leaves_all_of_them_suspended(place: Place) -> None:
    names = [await place.boot(vmid) for vmid in range(3)]
    await place.host.suspend("a", names)
    place.room.faults.plan("thaw", "fail", nth=2)
    with pytest.raises(CopperError):
        await place.host.resume("a")
    assert place.names() == []
    await place.host.resume("a")
    place.agree()
    assert place.names() == names


async def test_an_inventory_shows_what_nobody_knows_and_mend_removes_it(place: Place) -> None:
    await place.boot()
    place.room.start(place.room.images["micro"], "b-9")
    inventory = await place.host.inventory()
    processes = [found for found in inventory.found if found.thing == "process"]
    assert inventory.vms == {"a-0": "running"}
    assert [(found.vm, found.detail) for found in processes] == [("a-0", ""), ("", "it was b-9")]
    await place.host.mend("process", processes[1].name)
    place.agree()
    for used in (found for found in inventory.found if found.vm == "a-0"):
        with pytest.raises(Refused):
            await place.host.mend(used.thing, used.name)
    place.agree()
