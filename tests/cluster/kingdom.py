"""Controllers that follow each other over one store and its hosts, each cut off where a test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from copper.store.contract import Store
from copper.store.memory import MemoryStore
from copper.wire import steps
from tests.cluster.cuts import Cut, Dead
from tests.cluster.fakes import FakeHost, World
from tests.cluster.worlds import three


class Kingdom:
    """A store and hosts that outlive their controllers."""

    def __init__(self, hosts: list[FakeHost] | None = None, store: Store | None = None) -> None:
        self.hosts = hosts or three()
        self.store: Store = store or MemoryStore()
        self.cut = Cut()

    def world(self) -> World:
        """A new controller; what the one before still does reaches nothing."""
        self.cut.kill()
        self.cut = Cut()
        world = World(store=self.cut.store(self.store), hosts=self.hosts)
        for host in self.hosts:
            world.core.hosts.add(host.name, self.cut.host(host))
        return world

    async def killed_at(self, name: str, world: World, verb: str, nth: int = 1) -> None:
        """Does a verb to virtual cluster a until a step is reached, and cuts the controller off there."""
        left = nth

        async def hook(step: str) -> None:
            nonlocal left
            if step == name:
                left -= 1
                if left == 0:
                    self.cut.kill()
            if self.cut.dead.is_set():
                raise Dead

        steps.hook = hook
        try:
            doing = asyncio.create_task(getattr(world.core, verb)("a"))
            await asyncio.wait({doing})
            outcome = (await asyncio.gather(doing, return_exceptions=True))[0]
            assert self.cut.dead.is_set(), f"{name} is not reached: {outcome}"
        finally:
            steps.hook = None


def stop_at(name: str, cut: Cut) -> Callable[[str], Awaitable[None]]:
    """What cuts the controller off when it comes to this step."""

    async def hook(step: str) -> None:
        if step == name:
            cut.kill()
        if cut.dead.is_set():
            raise Dead

    return hook


@contextlib.asynccontextmanager
async def quietly(world: World):  # type: ignore[no-untyped-def]
    """A world that may be cut off before it is closed."""
    with contextlib.suppress(Dead):
        async with world:
            yield world


async def six(world: World) -> None:
    master = await world.boot("a", placement="spread", owner="ann")
    await world.call(master, "clone", count=5)


def states(world: World, name: str = "a") -> list[str]:
    return sorted({vm.state for vm in world.book.vms(name)})
