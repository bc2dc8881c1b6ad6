"""A thaw that is given up, at whatever moment, leaves nothing: neither its process nor its disk."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from copper.host import thawing
from copper.host.thawing import Thawing
from copper.image.machine import Image, Machine
from copper.model.settings import from_environment
from copper.vmm.process import QemuProcess

DISK = Path("own.qcow2")


class Parts:
    """What a thaw is made of, each of which may be made to wait."""

    def __init__(self, *, is_copy: bool) -> None:
        self.is_copy = is_copy
        self.grouped = threading.Event()
        self.there: set[str] = set()
        self.removed: list[tuple[Path, ...]] = []
        self.thawed = asyncio.Event()

    # a process

    pid, unit, shape = 1, "0123456789ab", None

    async def end(self) -> None:
        self.there.discard("process")

    async def take(self, shape: object, needs: object) -> Any:
        self.there.add("process")
        return self

    async def fork(self, *_: object) -> Any:
        return await self.take(None, None)

    # its group

    def put(self, name: str, pid: int, shape: object, *, is_copy: bool) -> None:
        self.grouped.wait()

    # and the VM

    async def thaw(self, *_: object) -> Machine:
        await asyncio.sleep(0)
        self.there.add("disk")
        self.thawed.set()
        return Machine(cast(Any, self), [], (DISK,))

    def remove_disks(self, disks: tuple[Path, ...]) -> None:
        self.there.discard("disk")
        self.removed.append(disks)


def begun(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> asyncio.Task[Machine]:
    monkeypatch.setattr(thawing, "thaw", parts.thaw)
    monkeypatch.setattr(thawing, "thaw_copy", parts.thaw)
    monkeypatch.setattr(QemuProcess, "fork", parts.fork)
    some = cast(Any, parts)
    made = Thawing(from_environment({}), some, some, parts.remove_disks)
    seed = some if parts.is_copy else None
    image = Image("1", some, some, [], b"", "", (), seed=seed)
    return asyncio.create_task(made.make(image, "a-1", -1))


@pytest.mark.parametrize("is_copy", [False, True])
async def test_a_thaw_that_is_waited_for_gives_the_vm(
    is_copy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(is_copy=is_copy)
    parts.grouped.set()
    machine = await begun(parts, monkeypatch)
    assert machine.disks == (DISK,) and parts.there == {"process", "disk"}


async def given_up(task: asyncio.Task[Machine], parts: Parts, turns: int) -> None:
    """Cancelled after so many turns of the loop; nothing is there afterwards, unless it was done before."""
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    parts.grouped.set()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(outcome, Machine):
        assert parts.there == {"process", "disk"}
    else:
        assert isinstance(outcome, asyncio.CancelledError) and parts.there == set()


@pytest.mark.parametrize("is_copy", [False, True])
@pytest.mark.parametrize("turns", range(4))
async def test_a_thaw_that_is_given_up_early_leaves_nothing(
    is_copy: bool, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(is_copy=is_copy)
    await given_up(begun(parts, monkeypatch), parts, turns)


@pytest.mark.parametrize("is_copy", [False, True])
@pytest.mark.parametrize("turns", range(6))
async def test_a_thaw_that_is_given_up_late_leaves_nothing(
    is_copy: bool, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(is_copy=is_copy)
    if is_copy:
        parts.grouped.set()
    task = begun(parts, monkeypatch)
    await parts.thawed.wait()
    await given_up(task, parts, turns)


async def test_a_vm_whose_group_is_late_is_ended_when_it_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = Parts(is_copy=False)
    task = begun(parts, monkeypatch)
    await parts.thawed.wait()
    await asyncio.sleep(0)
    task.cancel()
    parts.grouped.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert parts.there == set() and parts.removed == [(DISK,)]
