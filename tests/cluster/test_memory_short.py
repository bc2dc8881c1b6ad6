"""A host whose memory runs out: who is held and paused, ended, and goes on; over machines that are no machines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from copper.fake.hypervisor import FakeMachine
from copper.host import memory_guard
from copper.host.memory_guard import MemoryGuard
from copper.model.settings import MIB
from tests.cluster.fakes import until
from tests.cluster.hosts import Place, a_place

KEEP_MIB = 512  # what a host keeps unless it is told otherwise


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with a_place() as made:
        made.room.runs_out = True
        made.room.own_bytes = 0
        yield made


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(memory_guard, "FIRST_LOOK_S", 0.0)
    monkeypatch.setattr(memory_guard, "LOOK_S", 0.02)
    yield


@contextlib.asynccontextmanager
async def a_guard(place: Place) -> AsyncIterator[MemoryGuard]:
    guard = MemoryGuard(place.host.agent.vms)
    guard.start()
    try:
        yield guard
    finally:
        await guard.close()


async def boots(place: Place, count: int) -> None:
    """VMs a-0, a-1, …, the younger the later, each with more than was reserved for it."""
    for vmid in range(count):
        await place.boot(vmid)
        place.host.agent.vms.get(f"a-{vmid}").began = vmid
        place.room.set_own(f"a-{vmid}", 50 * MIB)


def leave_free(place: Place, mib: int) -> None:
    """So much memory is free from now on."""
    place.room.memory_bytes += mib * MIB - place.room.room_bytes()
    if place.room.room_bytes() != mib * MIB:  # it was less than nothing
        place.room.memory_bytes += mib * MIB - place.room.room_bytes()


def states(place: Place) -> dict[str, str]:
    return {vm.name: vm.state for vm in place.host.agent.vms.all()}


def runs(place: Place, vm: str) -> bool:
    return place.room.find(vm).since is not None


async def test_the_youngest_is_paused_and_told_why_and_goes_on(place: Place) -> None:
    await boots(place, 3)
    leave_free(place, KEEP_MIB * 3 // 8)
    async with a_guard(place):
        await until(lambda: states(place)["a-2"] == "paused")
        assert not runs(place, "a-2")
        status = place.host.agent.vms.get("a-2").status()
        assert status.reason.startswith("its host is out of memory: 192 MiB are free of 512")
        assert status.reason.endswith("this VM has 50 MiB more than was reserved for it")
        await asyncio.sleep(0.2)  # memory is as short as before: nobody else is paused for it
        assert list(states(place).values()) == ["running", "running", "paused"]
        leave_free(place, KEEP_MIB * 2)
        await until(lambda: states(place)["a-2"] == "running")
        assert runs(place, "a-2")


async def test_all_that_write_at_once_are_paused_and_none_is_ended(place: Place) -> None:
    await boots(place, 40)
    sure = place.host.agent.vms.get("a-0")
    sure.reserved_bytes = sure.machine.shape.memory_bytes
    leave_free(place, KEEP_MIB)
    async with a_guard(place) as guard:
        await asyncio.sleep(0.1)
        for vmid in range(40):
            place.room.set_own(f"a-{vmid}", 50 * MIB, 8 * MIB)
        free: list[int] = []
        while any(runs(place, f"a-{vmid}") for vmid in range(1, 40)):
            place.clock.advance(0.002)  # while a millisecond is waited for
            free.append(place.room.room_bytes())
            await asyncio.sleep(0.001)
            if free[-1] < KEEP_MIB * MIB // 4:
                break
        await until(lambda: sorted(states(place).values()).count("paused") == 39)
        assert runs(place, "a-0")
        assert min(free) >= KEEP_MIB * MIB // 4
        assert not guard.brake.take()
    assert len(place.names()) == 40
    assert place.told == []


async def test_below_a_quarter_vms_are_ended_and_the_controller_is_told(place: Place) -> None:
    await boots(place, 4)
    leave_free(place, KEEP_MIB // 8)
    async with a_guard(place):
        await until(lambda: len(place.names()) == 0)
    assert {ended.vm for ended in place.told} == {"a-0", "a-1", "a-2", "a-3"}
    assert all("its host is out of memory" in ended.reason for ended in place.told)


async def test_where_all_stand_some_are_ended_so_that_the_others_go_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_guard, "STUCK_S", 0.2)
    await boots(place, 3)
    for vm in place.names():
        place.room.set_own(vm, 250 * MIB)
    leave_free(place, KEEP_MIB * 3 // 8)
    for vm in place.names():
        await place.host.agent.vms.pause(vm, "its host is out of memory")
    async with a_guard(place):
        await until(lambda: states(place) == {"a-0": "running"})
    assert {ended.vm for ended in place.told} == {"a-1", "a-2"}


async def test_who_is_held_in_its_own_fork_is_forked_first_and_then_paused(place: Place) -> None:
    await boots(place, 1)
    held = place.room.faults.plan("freeze", "hang")
    freezing = asyncio.create_task(place.host.freeze("a-0"))
    await held.met.wait()
    leave_free(place, KEEP_MIB * 3 // 8)
    async with a_guard(place) as guard:
        await until(lambda: bool(guard._pausing))
        await until(lambda: runs(place, "a-0"))
        assert states(place) == {"a-0": "running"}
        held.go_on.set()
        await freezing
        await until(lambda: states(place) == {"a-0": "paused"})
    assert not runs(place, "a-0")


async def test_a_fork_that_begins_while_its_caller_waits_to_be_paused_goes_on(
    place: Place,
) -> None:
    await boots(place, 1)
    guard = MemoryGuard(place.host.agent.vms)
    guard._at_once = asyncio.Semaphore(0)  # others are being paused
    await guard.look(KEEP_MIB * MIB)
    for now in (0.0, 0.1):
        guard.brake.look(now, KEEP_MIB * MIB * 3 // 8)
    guard.pause_held()
    await asyncio.sleep(0)
    assert not runs(place, "a-0")
    held = place.room.faults.plan("freeze", "hang")
    freezing = asyncio.create_task(place.host.freeze("a-0"))
    await held.met.wait()
    guard._at_once.release()
    await until(lambda: runs(place, "a-0"))
    held.go_on.set()
    await freezing
    await until(lambda: states(place) == {"a-0": "paused"})
    await guard.close()


async def test_one_that_cannot_be_paused_goes_on(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await boots(place, 1)
    place.room.faults.plan("pause", "fail")
    leave_free(place, KEEP_MIB * 3 // 8)
    async with a_guard(place):
        await until(lambda: "VM a-0 cannot be told to pause" in caplog.text)
        await until(lambda: runs(place, "a-0"))
    assert states(place) == {"a-0": "running"}


async def test_one_that_somebody_paused_meanwhile_stays_paused_as_asked(place: Place) -> None:
    await boots(place, 1)
    guard = MemoryGuard(place.host.agent.vms)
    await guard.look(KEEP_MIB * MIB)  # it is offered, and runs
    await place.host.pause("a-0")
    for now in (0.0, 0.1):
        guard.brake.look(now, KEEP_MIB * MIB * 3 // 8)
    await guard.close()
    assert states(place) == {"a-0": "paused"}
    assert not place.host.agent.vms.get("a-0").paused_for
    assert not runs(place, "a-0")


async def test_an_agent_that_ends_leaves_nobody_held(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await boots(place, 2)
    held: list[str] = []
    hold = FakeMachine.hold

    def counted(machine: FakeMachine) -> None:
        held.append(machine.name)
        hold(machine)

    monkeypatch.setattr(FakeMachine, "hold", counted)
    guard = MemoryGuard(place.host.agent.vms)
    await guard.look(KEEP_MIB * MIB)
    for now in (0.0, 0.1):
        guard.brake.look(now, 0)
    assert held == ["a-1"]
    await guard.close()
    assert states(place) == {"a-0": "running", "a-1": "paused"}
