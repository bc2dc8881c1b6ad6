"""The controller is killed at every step of what it does; the next one finishes or undoes, and an audit agrees."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random

import pytest

from copper.store.memory import MemoryStore
from copper.wire import steps
from tests.cluster.cuts import Cut, Dead
from tests.cluster.fakes import FakeHost, World
from tests.cluster.story import Known, check, script

STEPS = [name for name in steps.STEPS if not name.startswith("host.")]
TIMES = 200 if os.environ.get("COPPER_SOAK") else 8


class Killer:
    """Kills a controller when it reaches a step for the N-th time."""

    def __init__(self, name: str, occurrence: int, cut: Cut) -> None:
        self.name, self.left, self.cut = name, occurrence, cut

    async def __call__(self, name: str) -> None:
        if name == self.name:
            self.left -= 1
            if self.left == 0:
                self.cut.kill()
        if self.cut.dead.is_set():
            raise Dead


class SlowHost(FakeHost):
    """Takes its time, so that steps come in other orders; the same for the same seed."""

    def __init__(self, seed: int, name: str) -> None:
        super().__init__(name=name)
        self._random = random.Random(seed)

    def __getattribute__(self, name: str) -> object:
        found = super().__getattribute__(name)
        if name not in ("thaw", "freeze", "end", "prepare", "release", "suspend", "resume"):
            return found

        async def late(*args: object) -> object:
            for _ in range(self._random.randrange(4)):
                await asyncio.sleep(0)
            return await found(*args)

        return late


def over(store: MemoryStore, hosts: list[FakeHost], cut: Cut) -> World:
    """A controller that can be killed, over a store and hosts that cannot."""
    world = World(store=cut.store(store))
    world.hosts, world.host = hosts, hosts[0]
    for host in hosts:
        world.core.hosts.add(host.name, cut.host(host))
    return world


@pytest.mark.parametrize("name", STEPS)
async def test_a_controller_killed_at_a_step_loses_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = 0
    for attempt in range(TIMES):
        store, known = MemoryStore(), Known()
        hosts: list[FakeHost] = [SlowHost(attempt, "fake")]
        cut = Cut()
        monkeypatch.setattr(steps, "hook", Killer(name, 1 + attempt % 4, cut))
        world = over(store, hosts, cut)
        with contextlib.suppress(Dead):
            async with world:
                work = asyncio.create_task(script(world, known))
                await asyncio.wait(
                    {work, asyncio.create_task(cut.dead.wait())},
                    return_when=asyncio.FIRST_COMPLETED,
                )
                work.cancel()
                outcome = (await asyncio.gather(work, return_exceptions=True))[0]
        if not cut.dead.is_set():
            assert outcome is None, outcome
            continue
        reached += 1
        monkeypatch.setattr(steps, "hook", None)
        world.later(0)
        hosts[0].fail = set()
        async with World(store=store, hosts=hosts) as after:
            await check(after, known)
    assert reached or TIMES == 0, f"{name} is never reached"
