"""A fake host as its controller sees it: its room, its agent, and the messages between them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from copper.fake.faults import IN_MESSAGES, Verb
from copper.fake.hypervisor import FakeHypervisor, RoomRecords
from copper.fake.keep import Keep
from copper.fake.room import Delays, Room
from copper.host.agent import HostAgent
from copper.host.controller_link import ControllerLink
from copper.host.exposing import expose
from copper.model.api import (
    Frozen,
    GuestCall,
    HostReport,
    ImageInfo,
    ThawOrder,
    VmEnded,
    VmLimits,
    VmStatus,
)
from copper.model.audit import Inventory
from copper.model.errors import CopperError
from copper.model.networks import Exposure
from copper.model.settings import Settings

T = TypeVar("T")


class DirectLink(ControllerLink):
    """A controller of the same process, seen from a host, without HTTP."""

    def __init__(
        self,
        answer: Callable[[GuestCall], Awaitable[dict[str, Any]]],
        ended: Callable[[VmEnded], Awaitable[None]],
    ) -> None:
        self._answer, self._ended = answer, ended

    async def call(self, vm: str, call: int, verb: str, args: dict[str, Any]) -> dict[str, Any]:
        return await self._answer(GuestCall(vm=vm, call=call, verb=verb, args=args))

    async def ended(self, ended: VmEnded) -> None:
        await self._ended(ended)


def served_hosts(settings: Settings, controller: ControllerLink) -> list[FakeHost]:
    """The fake hosts of `copper up --fake`: their machines outlive the process that serves them."""
    hosts = []
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    for number in range(settings.fake_hosts):
        name = f"fake-{number}"
        keep = Keep(settings.run_dir / "fake" / name, settings.state_dir / "fake" / name)
        room = Room(name, keep=keep)
        delay_s = settings.fake_delay_ms / 1000
        room.delays = Delays(delay_s, delay_s, delay_s)
        hosts.append(FakeHost(room, settings, controller))
    return hosts


class FakeHost:
    """One fake host. It is a controller's link to its own agent as well, as HTTP is to a real one."""

    def __init__(self, room: Room, settings: Settings, controller: ControllerLink) -> None:
        self.room = room
        self._settings, self._controller = settings, controller
        self._agent: HostAgent | None = None
        self.make_agent()

    @property
    def name(self) -> str:
        return self.room.name

    @property
    def agent(self) -> HostAgent:
        """Raises CopperError while it is dead."""
        if self._agent is None:
            raise CopperError(f"host {self.name} does not answer")
        return self._agent

    def make_agent(self) -> HostAgent:
        """A new host agent, which has not adopted anything yet; a former one has no effect any more."""
        hypervisor = FakeHypervisor(self.room)
        self._agent = HostAgent(
            self._settings,
            self._controller,
            hypervisor=hypervisor,
            records=RoomRecords(hypervisor),
            name=self.name,
        )
        return self._agent

    def kill(self) -> None:
        """As `kill -9` of the host agent: its machines run on."""
        self.room.kill_agent()
        self._agent = None

    async def start(self) -> None:
        """A new host agent, which finds the machines of the former one."""
        await self.make_agent().adopt()

    async def _ask(self, verb: Verb, work: Callable[[HostAgent], Awaitable[T]]) -> T:
        """A message to the agent and its answer. What is planned for it happens."""
        faults = self.room.faults
        fault = faults.take(verb, IN_MESSAGES) if faults else None
        if fault is None:
            return await work(self.agent)
        if fault.kind == "late":
            await faults.hold(fault)
            return await work(self.agent)
        if fault.kind == "double":
            first, second = await asyncio.gather(
                work(self.agent), work(self.agent), return_exceptions=True
            )
            if isinstance(first, BaseException):
                raise first
            if isinstance(second, BaseException):
                raise second
            return first
        await work(self.agent)
        raise fault.error

    async def report(self) -> HostReport:
        async def work(agent: HostAgent) -> HostReport:
            return agent.report()

        return await self._ask("report", work)

    async def images(self) -> list[ImageInfo]:
        async def work(agent: HostAgent) -> list[ImageInfo]:
            return agent.images()

        return await self._ask("images", work)

    async def delete_image(self, name: str) -> None:
        await self._ask("delete_image", lambda agent: agent.vms.delete_image(name))

    async def warm(self, image: str) -> None:
        await self._ask("warm", lambda agent: agent.vms.warm(image))

    async def vms(self) -> list[VmStatus]:
        async def work(agent: HostAgent) -> list[VmStatus]:
            return [vm.status() for vm in agent.vms.all()]

        return await self._ask("vms", work)

    async def thaw(self, order: ThawOrder) -> VmStatus:
        vm = await self._ask("thaw", lambda agent: agent.vms.put(order.identity.name, order))
        return vm.status()

    async def end(self, name: str) -> None:
        await self._ask("end", lambda agent: agent.vms.delete(name))

    async def freeze(self, name: str) -> Frozen:
        image, pause, took_ms = await self._ask("freeze", lambda agent: agent.vms.freeze(name))
        return Frozen(
            image=image,
            pause_ms=pause.pause_ms,
            freeze_ms=took_ms,
            pages=pause.pages,
            layer_bytes=pause.layer_bytes,
            steps={},
        )

    async def release(self, image: str) -> None:
        await self._ask("release", lambda agent: agent.vms.frozen.release(image))

    async def release_all(self) -> None:
        await self._ask("release", lambda agent: agent.vms.frozen.release_all())

    async def prepare(self, vm: str, count: int) -> None:
        async def work(agent: HostAgent) -> None:
            agent.vms.prepare(vm, count)

        await self._ask("prepare", work)

    async def pause(self, name: str) -> None:
        await self._ask("pause", lambda agent: agent.vms.pause(name))

    async def unpause(self, name: str) -> None:
        await self._ask("unpause", lambda agent: agent.vms.unpause(name))

    async def limit(self, name: str, limits: VmLimits) -> None:
        await self._ask("limit", lambda agent: agent.vms.limit(name, limits))

    async def expose(self, name: str, exposure: Exposure) -> None:
        await self._ask("expose", lambda agent: expose(agent.vms, name, exposure))

    async def suspend(self, cluster: str, vms: list[str]) -> None:
        await self._ask("suspend", lambda agent: agent.whole.suspend(cluster, vms))

    async def resume(self, cluster: str) -> None:
        await self._ask("resume", lambda agent: agent.whole.resume(cluster))

    async def discard(self, cluster: str) -> None:
        await self._ask("discard", lambda agent: agent.whole.forget(cluster))

    async def suspended(self) -> dict[str, list[str]]:
        async def work(agent: HostAgent) -> dict[str, list[str]]:
            return agent.whole.suspended()

        return await self._ask("suspended", work)

    async def inventory(self) -> Inventory:
        return await self._ask("inventory", lambda agent: agent.inventory())

    async def mend(self, thing: str, name: str) -> None:
        await self._ask("mend", lambda agent: agent.hypervisor.mend(thing, name))
