"""A host without QEMU: it does what the controller tells it, and fails when a test wants it to."""

from __future__ import annotations

import asyncio
from typing import Any

from copper.controller.calls import Calls
from copper.controller.clusters import Clusters
from copper.controller.hosts import Host
from copper.controller.state import State
from copper.model.api import (
    Frozen,
    GuestCall,
    HostFacts,
    ImageInfo,
    NewCluster,
    ThawOrder,
    VmStatus,
)
from copper.model.errors import CopperError, NotFound
from copper.model.machine import Needs, Shape
from copper.store.contract import Store
from copper.store.memory import MemoryStore

NEEDS = Needs(qemu="9.9.9", machine="pc-q35-9.9", accelerator="tcg", processor="max")
SHAPE = Shape(memory_mib=256, cpus=2, disk_bytes=1 << 28)


class FakeHost(Host):
    """VMs are entries of a dictionary. `room` is how many more fit; `fail` names what goes wrong."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.running: dict[str, ThawOrder] = {}
        self.frozen: set[str] = set()
        self.prepared: list[int] = []
        self.fail: set[str] = set()
        self.gate: asyncio.Event | None = None
        self.at_gate = asyncio.Event()

    def _check(self, what: str) -> None:
        if what in self.fail:
            raise CopperError(f"{what} failed, as asked")

    async def facts(self) -> HostFacts:
        return HostFacts(
            name="fake",
            cpus=4,
            memory_bytes=1 << 34,
            free_bytes=(self.room - len(self.running)) * (32 << 20),
            disk_bytes=1 << 40,
            disk_free_bytes=1 << 39,
            accelerator="tcg",
            accelerator_reason="it is a fake",
            qemu="9.9.9",
            machine="pc-q35-9.9",
            vms=len(self.running),
            standbys=0,
        )

    async def images(self) -> list[ImageInfo]:
        return [
            ImageInfo(
                name="micro",
                recipe="micro",
                created=0,
                memory_mib=SHAPE.memory_mib,
                cpus=SHAPE.cpus,
                disk_bytes=SHAPE.disk_bytes,
                stored_bytes=0,
                accelerator="tcg",
                users=[],
            )
        ]

    async def delete_image(self, name: str) -> None:
        self._check("delete_image")

    async def warm(self, image: str) -> None:
        self._check("warm")

    async def vms(self) -> list[VmStatus]:
        return [self._status(order) for order in self.running.values()]

    def _status(self, order: ThawOrder) -> VmStatus:
        return VmStatus(
            name=order.identity.name,
            identity=order.identity,
            shape=SHAPE,
            needs=NEEDS,
            state="running",
            pid=1,
            template="micro",
            own_bytes=1,
            shared_bytes=2,
            layers=1,
            disks=2,
            ready_ms=1,
            last_pause_ms=None,
        )

    async def thaw(self, order: ThawOrder) -> VmStatus:
        if order.frozen is not None and order.frozen not in self.frozen:
            raise NotFound(f"there is no image {order.frozen}")
        if self.gate is not None:
            self.at_gate.set()
            await self.gate.wait()
        self._check("thaw")
        self._check(f"thaw {order.identity.name}")
        self.running[order.identity.name] = order
        return self._status(order)

    async def end(self, name: str) -> None:
        self.running.pop(name, None)

    async def freeze(self, name: str) -> Frozen:
        self._check("freeze")
        if name not in self.running:
            raise NotFound(f"there is no VM {name}")
        image = f"image {len(self.frozen)} of {name}"
        self.frozen.add(image)
        return Frozen(image=image, pause_ms=1, freeze_ms=1, pages=1, layer_bytes=1, steps={})

    async def release(self, image: str) -> None:
        self.frozen.remove(image)

    async def prepare(self, vm: str, count: int) -> None:
        self._check("prepare")
        self.prepared.append(count)


class World:
    """A controller over a fake host, and calls as guests make them."""

    def __init__(self, room: int = 1000, store: Store | None = None) -> None:
        self.host = FakeHost(room)
        self.state = State(store or MemoryStore())
        self.clusters = Clusters(self.state, self.host, "fake")
        self.calls = Calls(self.state, self.clusters, self.host)

    async def boot(self, name: str = "a") -> str:
        await self.clusters.create(NewCluster(name=name, image="micro"))
        return (await self.clusters.boot(name)).name

    async def call(self, vm: str, verb: str, **args: Any) -> dict[str, Any]:
        return await self.calls.answer(GuestCall(vm=vm, call=7, verb=verb, args=args))

    async def ticket(
        self, vm: str, maxcpus: int = 4, minvms: int = 1, mincpus: int = 1, timeout_ms: int = 0
    ) -> str:
        result = await self.call(
            vm,
            "request-ticket",
            maxcpus=maxcpus,
            minvms=minvms,
            mincpuspervm=mincpus,
            timeout_ms=timeout_ms,
        )
        return str(result["ticket"])

    async def vmids(self, cluster: str = "a") -> list[int]:
        return [vm.vmid for vm in await self.state.vms(cluster)]

    async def agree(self) -> None:
        """What is written down is what the host has, and nothing else."""
        assert {vm.name for vm in await self.state.vms()} == set(self.host.running)
        assert self.host.frozen == set()
