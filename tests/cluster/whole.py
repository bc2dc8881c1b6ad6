"""A virtual cluster of six VMs over one host or three, and what has become of all of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.cluster.fakes import FakeHost, World

NAMES = [f"a-{vmid}" for vmid in range(6)]


def hosts_of(count: int, room: int = 1000) -> list[FakeHost]:
    return [FakeHost(room, f"h{number}", fetches=True) for number in range(count)]


@contextlib.asynccontextmanager
async def six(count: int) -> AsyncIterator[World]:
    """A virtual cluster of six VMs, spread over so many hosts."""
    async with World(hosts=hosts_of(count)) as world:
        master = await world.boot("a", placement="spread", owner="ann")
        await world.call(master, "clone", count=5)
        assert all(len(host.running) == 6 // count for host in world.hosts)
        yield world
        world.agree()


def states(world: World, name: str = "a") -> set[str]:
    return {vm.state for vm in world.book.vms(name)}


def paused(world: World) -> set[str]:
    return {name for host in world.hosts for name in host.paused if name in host.running}


def stored(world: World) -> set[str]:
    return {name for host in world.hosts for vms in host.stored.values() for name in vms}


def running(world: World) -> set[str]:
    return {name for host in world.hosts for name in host.running}


everywhere = pytest.mark.parametrize("count", [1, 3])


class Gate:
    """Holds whoever comes to a step, until it is opened."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    async def __call__(self, name: str) -> None:
        if name == self.name:
            self.reached.set()
            await self.opened.wait()
