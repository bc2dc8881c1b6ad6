"""Controller, host agent, or both are killed at every step of what they do; all is found again, and an audit agrees."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from copper.controller import audit
from copper.fake.faults import Verb
from copper.fake.host import DirectLink, FakeHost
from copper.fake.room import Room
from copper.host.agent import HostAgent
from copper.model.api import GuestCall, VmEnded
from copper.model.errors import CopperError
from copper.model.networks import Exposure
from copper.model.settings import Settings
from copper.store.memory import MemoryStore
from copper.wire import steps
from tests.cluster.cuts import Cut, Dead
from tests.cluster.fakes import World, until
from tests.cluster.hosts import NOWHERE
from tests.cluster.story import NETWORK, Known, check, script

TIMES = 100 if os.environ.get("COPPER_SOAK") else 3
HOST_STEPS = [name for name in steps.STEPS if name.startswith("host.")]
SETTINGS = Settings(state_dir=NOWHERE, run_dir=NOWHERE, clone_deadline_s=5, networks=(NETWORK,))
T = TypeVar("T")


class Host(FakeHost):
    """A host whose agent may die in the middle of an answer: whoever asked gets none."""

    async def _ask(self, verb: Verb, work: Callable[[HostAgent], Awaitable[T]]) -> T:
        try:
            return await super()._ask(verb, work)
        except Dead:
            raise CopperError(f"host {self.name} does not answer") from None


class Node(World):
    """A controller over the product's own fake host, which outlives it."""

    def __init__(self, store: MemoryStore, room: Room, cut: Cut) -> None:
        super().__init__(store=cut.store(store))
        self.room = room
        self.agent_host = Host(room, SETTINGS, DirectLink(self._answer, self._ended))
        self.core.hosts._links.clear()
        self.core.hosts.add(room.name, cut.host(self.agent_host))

    async def _answer(self, call: GuestCall) -> dict[str, object]:
        return await self.core.calls.answer(call)

    async def _ended(self, ended: VmEnded) -> None:
        await self.core.ended(ended)

    def fail_thaws(self, fail: bool) -> None:
        if fail:
            self.room.faults.plan("thaw", "fail")
        else:
            self.room.faults.forget()

    def in_force(self) -> dict[str, Exposure]:
        processes = self.room.processes.values()
        return {one.name: one.exposure for one in processes if one.exposure is not None}

    def agree(self) -> None:
        there = {process.name for process in self.room.processes.values()}
        rows = {vm.name for vm in self.book.vms() if vm.state in ("running", "paused")}
        assert rows == there - {""}
        assert [vm.state for vm in self.book.vms() if vm.state in ("starting", "ending")] == []

    def nothing_is_left(self) -> None:
        assert self.book.vms() == [] and self.book.tickets() == []
        for sums in (self.core.capacity.hosts, self.core.capacity.owners):
            assert all((one.vms, one.cpus, one.reserved) == (0, 0, 0) for one in sums.values())


class Killer:
    """Kills somebody when a step is reached for the N-th time."""

    def __init__(self, name: str, occurrence: int, kill: Callable[[], None]) -> None:
        self.name, self.left, self.kill = name, occurrence, kill
        self.done = asyncio.Event()

    async def __call__(self, name: str) -> None:
        if name == self.name and self.left > 0:
            self.left -= 1
            if self.left == 0:
                self.kill()
                self.done.set()
                raise Dead


async def told(node: Node, known: Known, killer: Killer) -> None:
    """Tells the story until somebody is killed, or to its end."""
    work = asyncio.create_task(script(node, known))
    dead = asyncio.create_task(killer.done.wait())
    await asyncio.wait({work, dead}, return_when=asyncio.FIRST_COMPLETED)
    if killer.done.is_set():
        await asyncio.wait({work}, timeout=0.05)  # it may see that nobody answers
    work.cancel()
    dead.cancel()
    outcome = (await asyncio.gather(work, dead, return_exceptions=True))[0]
    if not killer.done.is_set():
        assert outcome is None, outcome


async def agreed(node: Node, known: Known) -> None:
    """An audit finds nothing, all that was told is there, and all can be ended."""
    differences = await node.core.audit(False)
    assert differences == [], differences
    await check(node, known)


@pytest.mark.parametrize("name", steps.STEPS)
async def test_a_node_killed_at_a_step_loses_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "GAP_S", 0.0)
    reached = 0
    for attempt in range(TIMES):
        store, room, cut, known = MemoryStore(), Room("fake"), Cut(), Known()
        node = Node(store, room, cut)

        def kill(node: Node = node, cut: Cut = cut) -> None:
            cut.kill()
            node.agent_host.kill()

        killer = Killer(name, 1 + attempt, kill)
        monkeypatch.setattr(steps, "hook", killer)
        with contextlib.suppress(Dead):
            async with node:
                await told(node, known, killer)
        monkeypatch.setattr(steps, "hook", None)
        node.later(0)
        if not killer.done.is_set():
            continue
        reached += 1
        room.faults.forget()
        after = Node(store, room, Cut())
        await after.agent_host.start()
        async with after:
            await agreed(after, known)
        await after.agent_host.agent.leave()
    assert reached, f"{name} is never reached"


@pytest.mark.parametrize("name", HOST_STEPS)
async def test_a_host_agent_killed_at_a_step_is_followed_when_it_is_back(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "GAP_S", 0.0)
    reached = 0
    for attempt in range(TIMES):
        store, room, known = MemoryStore(), Room("fake"), Known()
        node = Node(store, room, Cut())
        killer = Killer(name, 1 + attempt, node.agent_host.kill)
        monkeypatch.setattr(steps, "hook", killer)
        async with node:
            await told(node, known, killer)
            monkeypatch.setattr(steps, "hook", None)
            node.later(0)
            if killer.done.is_set():
                reached += 1
                room.faults.forget()
                await until(lambda node=node: "fake" not in node.core.hosts.reports)  # type: ignore[misc]
                await node.agent_host.start()
                await until(lambda node=node: settled(node))  # type: ignore[misc]
                await agreed(node, known)
        with contextlib.suppress(CopperError):
            await node.agent_host.agent.leave()
    assert reached, f"{name} is never reached"


def settled(node: Node) -> bool:
    """The host answers, and nothing is begun that is not done."""
    unsettled = {"starting", "ending"} & {vm.state for vm in node.book.vms()}
    intended = [row.name for row in node.book.clusters() if row.intent]
    return "fake" in node.core.hosts.reports and not unsettled and not intended
