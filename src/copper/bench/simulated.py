"""Fake hosts (`copper.fake`) that fetch each other's images: a controller may place forks on any of them."""

from __future__ import annotations

from typing import Any

from copper.fake.host import FakeHost
from copper.fake.process import Layer
from copper.fake.room import Room
from copper.host.controller_link import ControllerLink
from copper.model.api import GuestCall, HostReport, ThawOrder, VmEnded, VmStatus
from copper.model.settings import Settings

IMAGE = "micro"
CPUS, MEMORY = 32, 64 << 30  # of a host of the simulation
OWN_BYTES = 23 << 20  # what an idle clone of a real `micro` has of its own


class Nobody(ControllerLink):
    """For hosts whose guests never call and never end on their own."""

    def __init__(self) -> None: ...

    async def call(self, vm: str, call: int, verb: str, args: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError(GuestCall(vm=vm, call=call, verb=verb, args=args))

    async def ended(self, ended: VmEnded) -> None:
        raise NotImplementedError(ended)


class FetchingHost(FakeHost):
    """A fake host that has the image of another as soon as it is told to thaw it."""

    def __init__(self, name: str, peers: dict[str, FetchingHost], cpus: int = CPUS) -> None:
        room = Room(name, cpus=cpus, memory_bytes=MEMORY)
        room.own_bytes = OWN_BYTES
        super().__init__(room, Settings(), Nobody())
        self._peers = peers
        peers[name] = self

    async def report(self) -> HostReport:
        report = await super().report()
        facts = report.facts.model_copy(update={"fetches": True})
        return report.model_copy(update={"facts": facts})

    async def thaw(self, order: ThawOrder) -> VmStatus:
        # who else was forked with a VM is told to its guest; a thousand lists of a thousand would be all memory
        identity = order.identity.model_copy(update={"vmids": []})
        order = order.model_copy(update={"identity": identity})
        if not order.source:
            return await super().thaw(order)
        frozen = self._peers[order.source].room.frozen[str(order.frozen)]
        # the lowest layer is the stored image's, which is here; the others are copied
        lowest = self.room.images[IMAGE].layers
        above = tuple(Layer(layer.bytes) for layer in frozen.layers[1:])
        mine = self.room.hold(frozen.shape, lowest + above)
        try:
            return (await self.agent.vms.put(identity.name, order, (mine, IMAGE, ""))).status()
        finally:
            self.room.discard(mine.id)


def some_hosts(count: int, cpus: int = CPUS) -> list[FetchingHost]:
    """`host-0000` and so on."""
    peers: dict[str, FetchingHost] = {}
    return [FetchingHost(f"host-{number:04d}", peers, cpus) for number in range(count)]
