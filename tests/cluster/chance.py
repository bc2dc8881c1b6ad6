"""Short hosts, users who quarrel about them, and time and turns as chance has them: where made-up stories happen."""

from __future__ import annotations

import asyncio
import inspect
import random
import selectors
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from copper.controller.rows import user_key
from copper.model.api import Limits, NewCluster, ThawOrder, VmStatus
from copper.model.networks import Attachment, NewNetwork
from copper.model.users import Quota, User
from tests.cluster.fakes import FakeHost, World

MIB = 1 << 20
EXPIRES_S = 0.05
USERS = {"ann": Quota(), "bob": Quota(vms=5), "cat": Quota(cpus=10, memory_mib=400)}
CLUSTERS = {
    "a": ("ann", "near", Limits(vms=7)),
    "b": ("bob", "spread", Limits(cpus=8)),
    "c": ("cat", "pack", Limits()),
    "d": ("cat", "near", Limits()),
}
# the pools are short: three virtual clusters quarrel about the first
NETWORKS = {
    "pub": ["198.51.100.1-198.51.100.7"],
    "six": ["203.0.113.1-203.0.113.3", "2001:db8::/64"],
}
ATTACHED = {
    "a": [Attachment(name="pub")],
    "b": [Attachment(name="pub"), Attachment(name="six", master_only=True)],
    "c": [Attachment(name="pub", master_only=True), Attachment(name="six")],
}
Op = tuple[str, int, int]
FAULTS = ["freeze", "prepare", "thaw", "pause", "unpause", "suspend", "resume"]
OFTEN = {
    "ask": 3,
    "wait": 1,
    "use": 3,
    "fork": 3,
    "boot": 2,
    "release": 1,
    "kill-some": 2,
    "kill-all": 1,
    "die": 1,
    "fault": 2,
    "suspend": 1,
    "resume": 2,
    "pause": 1,
    "unpause": 2,
}
OPS = [verb for verb, times in OFTEN.items() for _ in range(times)]
ops = st.tuples(st.sampled_from(OPS), st.integers(0, 7), st.integers(0, 7))


async def furnish(world: World) -> None:
    """The users with their quotas, the networks, and the virtual clusters, of which none is booted."""
    for name, quota in USERS.items():
        user = User(name=name, role="user", quota=quota, created=0)
        await world.book.commit(put={user_key(name): user})
    for name, pool in NETWORKS.items():
        await world.core.networks.create(NewNetwork(name=name, pool=pool))
    for name, (owner, placement, limits) in CLUSTERS.items():
        new = NewCluster(
            name=name,
            image="micro",
            limits=limits,
            placement=placement,  # type: ignore[arg-type]
            networks=ATTACHED.get(name, []),
        )
        await world.core.create(owner, new)


class Host(FakeHost):
    """Remembers who was made on it: no name is given to two."""

    def __init__(self, name: str, room: int, cpus: int, own_mib: int, made: set[str]) -> None:
        super().__init__(room, name, cpus, fetches=True)
        self.own = own_mib * MIB
        self.networks = ["pub"] if name == "h3" else ["pub", "six"]
        self.made = made

    async def thaw(self, order: ThawOrder) -> VmStatus:
        status = await super().thaw(order)
        name = order.identity.name
        if order.identity.vmid == 0:  # a boot begins anew
            self.made -= {one for one in self.made if one.startswith(f"{order.identity.cluster}-")}
        assert name not in self.made, f"{name} is made twice"
        self.made.add(name)
        return status


class Loop(asyncio.SelectorEventLoop):
    """Nobody waits: when nothing is to be done, it is the time of what comes next. So each story goes as before."""

    def __init__(self) -> None:
        self.now = 0.0
        chosen = selectors.DefaultSelector()
        select = chosen.select

        def at_once(timeout: float | None = None) -> Any:
            assert timeout is not None, "nothing will ever happen again"
            self.now += max(timeout, 0)
            return select(0)

        chosen.select = at_once  # type: ignore[method-assign]
        super().__init__(chosen)

    def time(self) -> float:
        return self.now


class Paced:
    """A store or host whose calls take turns of the loop, as chance has it, and are counted."""

    def __init__(self, to: object, seed: int, passed: Callable[[], None]) -> None:
        self._to, self._chance, self._passed = to, random.Random(seed), passed

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._to, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **named: Any) -> Any:
            await self._turns()
            answer = await found(*args, **named)
            await self._turns()
            self._passed()
            return answer

        return call

    async def _turns(self) -> None:
        for _ in range(self._chance.choice((0, 0, 1, 2, 5))):
            await asyncio.sleep(0)
