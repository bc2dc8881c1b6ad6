"""What many tests of a controller begin with: three hosts, clones, calls that wait, a user's quota."""

from __future__ import annotations

import asyncio
from typing import Any

from copper.controller.rows import Joined, user_key
from copper.model.users import Quota, User
from tests.cluster.fakes import FakeHost, World

Task = asyncio.Task[dict[str, Any]]


def three(room: int = 1000, cpus: int = 1024, fetches: bool = True) -> list[FakeHost]:
    return [FakeHost(room, name, cpus, fetches) for name in ("h1", "h2", "h3")]


async def clone(world: World, vm: str, count: int) -> list[int]:
    vmids: list[int] = (await world.call(vm, "clone", count=count))["vmids"]
    return vmids


async def quota(world: World, name: str, **most: int) -> None:
    user = User(name=name, role="user", quota=Quota(**most), created=0)
    await world.book.commit(put={user_key(name): user})


async def forked(world: World, clones: int = 3, caller: str = "") -> tuple[str, str]:
    """A master, or another VM, that has cloned: its name and the ticket."""
    vm = caller or await world.boot()
    ticket = await world.ticket(vm, maxcpus=2 * clones, minvms=clones)
    await world.call(vm, "clone", ticket=ticket)
    return vm, ticket


def begun(world: World, vm: str, verb: str, **args: Any) -> Task:
    return asyncio.create_task(world.call(vm, verb, **args))


async def still() -> None:
    """Lets all that can go on do so."""
    for _ in range(50):
        await asyncio.sleep(0)


def results(world: World) -> list[tuple[int, int | None]]:
    return sorted((row.vmid, row.status) for row in world.book.all("joined", Joined))
