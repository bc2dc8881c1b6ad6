"""The controller is killed at every step of what it does; the next one finishes or undoes, and an audit agrees."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Iterator

import pytest

from copper.model.errors import CopperError
from copper.store.memory import MemoryStore
from copper.wire import steps
from tests.cluster.cuts import Cut, Dead
from tests.cluster.fakes import FakeHost, World, until

STEPS = [name for name in steps.STEPS if not name.startswith("host.")]
TIMES = 200 if os.environ.get("COPPER_SOAK") else 8


class Known:
    """What users were told, and so must find again whatever is killed."""

    def __init__(self) -> None:
        self.clusters: set[str] = set()
        self.vms: set[str] = set()
        self.tickets: set[str] = set()
        self.unsure: set[str] = set()  # being ended: there or not, both are right

    @contextlib.contextmanager
    def ending(self, *names: str) -> Iterator[None]:
        """These may be gone from now on, and are once it is done."""
        self.unsure |= set(names)
        yield
        self.vms -= set(names)
        self.unsure -= set(names)


async def script(world: World, known: Known) -> None:
    """What two users do, one after the other: each verb that a controller has."""
    for name, owner in (("a", "ann"), ("b", "bob")):
        master = await world.boot(name, owner=owner)
        known.clusters.add(name)
        known.vms.add(master)
        ticket = await world.ticket(master, maxcpus=6)
        known.tickets.add(ticket)
        known.unsure.add(ticket)  # from the call on it may have been used
        done = await world.call(master, "clone", ticket=ticket)
        known.tickets.discard(ticket)
        known.vms |= {f"{name}-{vmid}" for vmid in done["vmids"]}
        done = await world.call(master, "clone", count=2)
        known.vms |= {f"{name}-{vmid}" for vmid in done["vmids"]}
        spare = await world.ticket(f"{name}-1")
        known.unsure.add(spare)
        await world.core.release_ticket(spare)
        kept = await world.ticket(master)
        known.tickets.add(kept)
        with known.ending(f"{name}-2"):
            await world.call(master, "kill", vmids=[2])
        await world.core.pause(name)
        await world.core.unpause(name)
        await world.core.suspend(name)
        await world.core.resume(name)
        with contextlib.suppress(CopperError):
            world.host.fail = {"thaw"}
            await world.call(master, "clone", count=2)
        world.host.fail = set()
    short = World(store=world.book.store, hosts=world.hosts, ticket_expires_s=0.05)
    async with short:
        late = await short.ticket("a-0")
        await until(lambda: late not in {ticket.id for ticket in short.book.tickets()})
        await asyncio.sleep(0.02)  # and the step after it
    with known.ending(*[vm for vm in known.vms if vm.startswith("a-")]):
        known.unsure |= known.tickets
        await world.core.kill("a")
    known.clusters.discard("a")
    known.unsure.add("a")
    await world.core.delete("a")


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
        hosts[0].fail = set()
        async with World(store=store, hosts=hosts) as after:
            await check(after, known)
    assert reached or TIMES == 0, f"{name} is never reached"


async def check(world: World, known: Known) -> None:
    """All that was acknowledged is there; all that was begun is finished or undone; all can be used and ended."""
    world.agree()
    there = {vm.name for vm in world.book.vms() if vm.state in ("running", "paused", "suspended")}
    assert known.vms - known.unsure <= there
    assert known.clusters - known.unsure <= {row.name for row in world.book.clusters()}
    tickets = {t.id: t for t in world.book.tickets()}
    assert known.tickets - known.unsure <= tickets.keys()
    for ticket in tickets.values():
        made = [vm for vm in world.book.vms() if vm.ticket == ticket.id]
        assert (ticket.status == "used") == bool(made), "a fork is whole or not at all"
    for row in world.book.clusters():
        assert row.intent == ""
        states = {vm.state for vm in world.book.vms(row.name)}
        assert len(states) <= 1, "a virtual cluster is whole in one state"
        if states == {"paused"}:
            await world.core.unpause(row.name)
        if states == {"suspended"}:
            await world.core.resume(row.name)
        if states:
            await world.call(f"{row.name}-0", "clone", count=2)
        await world.core.kill(row.name)
        await world.core.delete(row.name)
    assert world.book.vms() == [] and world.book.tickets() == []
    for sums in (world.core.capacity.hosts, world.core.capacity.owners):
        assert all((one.vms, one.cpus, one.reserved) == (0, 0, 0) for one in sums.values())
    assert all(not host.running and not host.stored and not host.frozen for host in world.hosts)
