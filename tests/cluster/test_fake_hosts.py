"""A controller over fake hosts in one process, as simulations and fault tests have it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from copper.controller.core import Core
from copper.fake.faults import Kind, Verb
from copper.fake.host import DirectLink, FakeHost
from copper.fake.room import Room
from copper.model.api import NewCluster
from copper.model.settings import Settings
from copper.store.memory import MemoryStore

NOWHERE = Path("/nonexistent")
SETTINGS = Settings(state_dir=NOWHERE, run_dir=NOWHERE, clone_deadline_s=0.5)


class World:
    """A controller and its hosts."""

    def __init__(self, hosts: int) -> None:
        self.core = Core(MemoryStore())
        link = DirectLink(self.core.calls.answer, self.core.ended)
        self.hosts = [FakeHost(Room(f"fake-{n}"), SETTINGS, link) for n in range(hosts)]
        for host in self.hosts:
            self.core.hosts.add(host.name, host)

    def room_of(self, vm: str) -> Room:
        return next(host.room for host in self.hosts if host.name == self.core.book.vm(vm).host)

    def agree(self) -> None:
        """What is written down is what the hosts have, and nobody holds an image."""
        rows = sorted((vm.host, vm.name) for vm in self.core.book.vms() if vm.state != "dead")
        there = [(h.name, p.name) for h in self.hosts for p in h.room.processes.values()]
        assert sorted(there) == rows
        assert not any(host.room.frozen for host in self.hosts)


@contextlib.asynccontextmanager
async def a_world(hosts: int = 3) -> AsyncIterator[World]:
    """Its controller works while this is open; the cluster a runs."""
    world = World(hosts)
    async with world.core.working():
        await world.core.create("root", NewCluster(name="a", image="micro"))
        await world.core.boot("a")
        yield world
    for host in world.hosts:
        await host.agent.leave()


async def test_a_guest_forks_and_kills_its_clones() -> None:
    async with a_world() as world:
        room = world.room_of("a-0")
        assert (await room.call("a-0", "clone", {"count": 6}))["vmids"] == [1, 2, 3, 4, 5, 6]
        world.agree()
        await world.room_of("a-2").call("a-2", "clone", {"count": 2})
        assert (await room.call("a-0", "kill", {"vmids": [1, 7]}))["vmids"] == [1, 7]
        world.agree()
        await room.call("a-0", "killall")
        world.agree()
        assert [vm.name for vm in world.core.book.vms("a")] == ["a-0"]


FAULTS: list[tuple[Verb, Kind]] = [
    ("freeze", "fail"),
    ("thaw", "fail"),
    ("run", "fail"),
    ("begin", "fail"),
    ("freeze", "lose"),
    ("thaw", "lose"),
]


@pytest.mark.parametrize(("verb", "kind"), FAULTS)
async def test_a_fork_that_fails_leaves_the_caller_alone(verb: Verb, kind: Kind) -> None:
    async with a_world() as world:
        room = world.room_of("a-0")
        room.faults.plan(verb, kind)
        with pytest.raises(OSError, match="as asked"):
            await room.call("a-0", "clone", {"count": 3})
        await room.call("a-0", "list")
        for host in world.hosts:
            host.room.faults.forget()
        # an image whose answer was lost is let go of when the next controller begins
        for host in world.hosts:
            await host.release_all()
        world.agree()
        assert len((await room.call("a-0", "clone", {"count": 2}))["vmids"]) == 2
        world.agree()


async def test_a_host_agent_that_is_killed_comes_back_with_all_its_machines() -> None:
    async with a_world() as world:
        await world.room_of("a-0").call("a-0", "clone", {"count": 9})
        for host in world.hosts:
            host.kill()
            await host.start()
            for vm in host.agent.vms.all():
                await vm.guest()
        world.agree()
        assert len((await world.room_of("a-4").call("a-4", "clone", {"count": 2}))["vmids"]) == 2
        world.agree()
