"""A host without QEMU: it does what the controller tells it, and fails when a test wants it to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from copper.controller import tickets
from copper.controller.core import Core
from copper.controller.rows import Joined
from copper.controller.terms import since_boot
from copper.model.api import (
    Frozen,
    GuestCall,
    HostFacts,
    HostReport,
    ImageInfo,
    NewCluster,
    ThawOrder,
    VmLimits,
    VmState,
    VmStatus,
    VmUse,
)
from copper.model.audit import Found, Inventory, Thing
from copper.model.errors import Conflict, CopperError, NotFound, Refused
from copper.model.machine import Needs, Shape
from copper.model.networks import Exposure, Forward, Lease
from copper.store.contract import Store
from copper.store.memory import MemoryStore

NEEDS = Needs(qemu="9.9.9", machine="pc-q35-9.9", accelerator="tcg", processor="max")
OF_A_VM: tuple[Thing, ...] = ("process", "record")
SHAPE = Shape(memory_mib=256, cpus=2, disk_bytes=1 << 28)


class FakeHost:
    """VMs are entries of a dictionary. `room` is how many more fit; `fail` names what goes wrong.

    `lose`: what is done, but the answer is lost. `silent`: it answers nothing, and does nothing.
    """

    def __init__(
        self, room: int = 1000, name: str = "fake", cpus: int = 1024, fetches: bool = False
    ) -> None:
        self.name = name
        self.cpus = cpus
        self.cpu_ratio = 4.0
        self.room = room
        self.tags: list[str] = []
        self.networks: list[str] = []
        self.storage: list[str] = []
        self.fetches = fetches
        self.own = 32 << 20
        self.paused: set[str] = set()
        self.paused_for = ""  # why they are paused, when nobody asked for it
        self.stored: dict[str, dict[str, ThawOrder]] = {}
        self.limits: dict[str, VmLimits] = {}
        self.running: dict[str, ThawOrder] = {}
        self.exposed: dict[str, Exposure] = {}  # what is in force, by VM
        self.frozen: set[str] = set()
        self.prepared: list[int] = []
        self.fail: set[str] = set()
        self.refuse: set[str] = set()
        self.lose: set[str] = set()
        self.silent = False
        self.gate: asyncio.Event | None = None
        self.at_gate = asyncio.Event()

    def _check(self, what: str) -> None:
        if self.silent:
            raise CopperError(f"host {self.name} does not answer, as asked")
        if what in self.fail:
            raise CopperError(f"{what} failed, as asked")
        if what in self.refuse:
            raise Refused(f"{what} is refused, as asked")

    def _answer(self, what: str) -> None:
        if what in self.lose:
            raise CopperError(f"the answer to {what} is lost, as asked")

    def facts(self) -> HostFacts:
        return HostFacts(
            name=self.name,
            cpus=self.cpus,
            memory_bytes=1 << 40,
            free_bytes=self.room * (32 << 20) - len(self.running) * self.own,
            disk_bytes=1 << 40,
            disk_free_bytes=1 << 39,
            accelerator="tcg",
            accelerator_reason="it is a fake",
            qemu="9.9.9",
            machine="pc-q35-9.9",
            vms=len(self.running),
            standbys=0,
            cpu_ratio=self.cpu_ratio,
            tags=self.tags,
            networks=self.networks,
            storage=self.storage,
            fetches=self.fetches,
        )

    async def report(self) -> HostReport:
        self._check("report")
        use = [
            VmUse(
                name=name,
                cluster=order.identity.cluster,
                nominal_bytes=SHAPE.memory_bytes,
                shared_bytes=2,
                own_bytes=self.own,
                cpu_s=1.5,
            )
            for name, order in self.running.items()
        ]
        return HostReport(facts=self.facts(), vms=use)

    async def images(self) -> list[ImageInfo]:
        self._check("images")
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
        self._check("vms")
        return [self._status(order) for order in self.running.values()]

    def _status(self, order: ThawOrder) -> VmStatus:
        state: VmState = "paused" if order.identity.name in self.paused else "running"
        return VmStatus(
            name=order.identity.name,
            identity=order.identity,
            shape=SHAPE,
            needs=NEEDS,
            state=state,
            pid=1,
            template="micro",
            own_bytes=1,
            shared_bytes=2,
            layers=1,
            disks=2,
            ready_ms=1,
            last_pause_ms=None,
            reason=self.paused_for if state == "paused" else "",
            exposure=self.exposed.get(order.identity.name),
        )

    async def thaw(self, order: ThawOrder) -> VmStatus:
        if order.frozen is not None and not order.source and order.frozen not in self.frozen:
            raise NotFound(f"there is no image {order.frozen}")
        if self.gate is not None:
            self.at_gate.set()
            await self.gate.wait()
        self._check("thaw")
        self._check(f"thaw {order.identity.name}")
        self.running[order.identity.name] = order
        self.exposed.pop(order.identity.name, None)
        if order.exposure is not None:
            self.exposed[order.identity.name] = order.exposure
        self._answer("thaw")
        return self._status(order)

    async def end(self, name: str) -> None:
        self._check("end")
        self._check(f"end {name}")
        self.running.pop(name, None)
        self.exposed.pop(name, None)
        self.paused.discard(name)
        self._answer("end")

    async def freeze(self, name: str) -> Frozen:
        self._check("freeze")
        if name not in self.running:
            raise NotFound(f"there is no VM {name}")
        image = f"image {len(self.frozen)} of {name}"
        self.frozen.add(image)
        return Frozen(image=image, pause_ms=1, freeze_ms=1, pages=1, layer_bytes=1, steps={})

    async def release(self, image: str) -> None:
        self._check("release")
        self.frozen.remove(image)

    async def release_all(self) -> None:
        self._check("release_all")
        self.frozen.clear()

    async def prepare(self, vm: str, count: int) -> None:
        self._check("prepare")
        self.prepared.append(count)

    async def pause(self, name: str) -> None:
        self._check("pause")
        self._check(f"pause {name}")
        self.paused.add(name)
        self._answer("pause")

    async def unpause(self, name: str) -> None:
        self._check("unpause")
        self._check(f"unpause {name}")
        self.paused.discard(name)
        self._answer("unpause")

    async def limit(self, name: str, limits: VmLimits) -> None:
        self._check("limit")
        self._check(f"limit {name}")
        self.limits[name] = limits
        self._answer("limit")

    async def expose(self, name: str, exposure: Exposure) -> None:
        self._check("expose")
        self._check(f"expose {name}")
        if name not in self.running:
            raise NotFound(f"there is no VM {name}")
        self.exposed.pop(name, None)
        if not exposure.is_private:
            self.exposed[name] = exposure
        self._answer("expose")

    async def suspend(self, cluster: str, vms: list[str]) -> None:
        self._check("suspend")
        stored = self.stored.get(cluster)
        if stored is None:
            if gone := [name for name in vms if name not in self.running]:
                raise NotFound(f"there is no VM {gone[0]}")
            orders = {name: self.running.pop(name) for name in vms}
            self.stored[cluster] = {
                name: order.model_copy(update={"exposure": self.exposed.pop(name, None)})
                for name, order in orders.items()
            }
        elif not set(vms) <= stored.keys():
            raise Conflict(f"virtual cluster {cluster} is suspended, with other VMs")
        self._answer("suspend")

    async def resume(self, cluster: str) -> None:
        self._check("resume")
        if cluster not in self.stored and not any(
            order.identity.cluster == cluster for order in self.running.values()
        ):
            raise NotFound(f"virtual cluster {cluster} is not suspended on this host")
        back = self.stored.pop(cluster, {})
        self.running |= back
        self.exposed |= {name: order.exposure for name, order in back.items() if order.exposure}
        self._answer("resume")

    async def discard(self, cluster: str) -> None:
        self._check("discard")
        self.stored.pop(cluster, None)

    async def suspended(self) -> dict[str, list[str]]:
        self._check("suspended")
        return {cluster: sorted(vms) for cluster, vms in self.stored.items()}

    async def inventory(self) -> Inventory:
        self._check("inventory")
        found = [Found(thing="image", name="micro")]
        for name in self.running:
            found += [Found(thing=thing, name=name, vm=name) for thing in OF_A_VM]
        for name, exposure in self.exposed.items():
            found.append(Found(thing="exposure", name=name, vm=name, detail=exposure.summary))
        found += [Found(thing="suspended", name=name, vm=name) for name in self.stored]
        vms = {name: self._status(order).state for name, order in self.running.items()}
        return Inventory(host=self.name, vms=vms, found=found)

    async def mend(self, thing: str, name: str) -> None:
        self._check("mend")


vars(tickets)["LOOK_AGAIN_S"] = 0.02  # tests wait for what is over


class World:
    """A controller over fake hosts, and calls as guests make them."""

    def __init__(
        self,
        room: int = 1000,
        store: Store | None = None,
        hosts: list[FakeHost] | None = None,
        ticket_expires_s: float = 300.0,
    ) -> None:
        self.host = hosts[0] if hosts else FakeHost(room)
        self.hosts = hosts or [self.host]
        self.core = Core(store or MemoryStore(), report_s=0.05, ticket_expires_s=ticket_expires_s)
        self.book = self.core.book
        for host in self.hosts:
            self.core.hosts.add(host.name, host)
        self._work = contextlib.AsyncExitStack()

    async def __aenter__(self) -> World:
        await self._work.enter_async_context(self.core.working())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._work.aclose()

    async def boot(self, name: str = "a", **settings: Any) -> str:
        owner = settings.pop("owner", "root")
        await self.core.create(owner, NewCluster(name=name, image="micro", **settings))
        return (await self.core.boot(name)).name

    async def call(self, vm: str, verb: str, **args: Any) -> dict[str, Any]:
        return await self.core.calls.answer(GuestCall(vm=vm, call=7, verb=verb, args=args))

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

    def vmids(self, cluster: str = "a") -> list[int]:
        return [vm.vmid for vm in self.book.vms(cluster)]

    def in_force(self) -> dict[str, Exposure]:
        """How the world reaches VMs, as their hosts have it."""
        return {vm: one for host in self.hosts for vm, one in host.exposed.items()}

    def agree(self) -> None:
        """What is written down is what the hosts have, and nothing else."""
        there = {(name, host.name) for host in self.hosts for name in host.running}
        rows = {(vm.name, vm.host) for vm in self.book.vms() if vm.state in ("running", "paused")}
        assert rows == there
        assert [vm.state for vm in self.book.vms() if vm.state in ("starting", "ending")] == []
        assert all(host.frozen == set() for host in self.hosts)

    def later(self, seconds: float) -> None:
        """The time by which tickets go is so much later; 0: as it is."""
        vars(tickets)["since_boot"] = (lambda: since_boot() + seconds) if seconds else since_boot

    def fail_thaws(self, fail: bool) -> None:
        """Whether the first host thaws nothing from now on."""
        self.host.fail = {"thaw"} if fail else set()

    def nothing_is_left(self) -> None:
        """All has been ended, and all is free."""
        assert self.book.vms() == [] and self.book.tickets() == []
        assert self.book.all("joined", Joined) == []
        assert self.book.all("leases", Lease) == [] and self.book.all("forwards", Forward) == []
        for sums in (self.core.capacity.hosts, self.core.capacity.owners):
            assert all((one.vms, one.cpus, one.reserved) == (0, 0, 0) for one in sums.values())
        for host in self.hosts:
            assert not host.running and not host.stored and not host.frozen and not host.exposed


WAIT_S = 120.0  # for what happens at once where nothing else runs


async def until(holds: Callable[[], bool], deadline_s: float = WAIT_S) -> None:
    """Returns when it holds. Raises TimeoutError."""
    async with asyncio.timeout(deadline_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
