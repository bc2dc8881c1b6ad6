"""One fake host for tests: its room, and a controller that writes down what it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from copper.fake.host import DirectLink, FakeHost
from copper.fake.room import Clock, Room
from copper.model.api import GuestCall, ThawOrder, VmEnded
from copper.model.machine import Identity
from copper.model.settings import Settings
from copper.net.addresses import ipv4_of

NOWHERE = Path("/nonexistent")


class Place:
    """A fake host, and what its controller was asked and told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.room = Room("here", clock=self.clock)
        self.calls: list[GuestCall] = []
        self.told: list[VmEnded] = []
        self.was_told = asyncio.Event()
        self.settings = Settings(state_dir=NOWHERE, run_dir=NOWHERE, clone_deadline_s=0.5)
        self.host = FakeHost(self.room, self.settings, DirectLink(self._answer, self._ended))

    async def _answer(self, call: GuestCall) -> dict[str, Any]:
        self.calls.append(call)
        return {"verb": call.verb}

    async def _ended(self, ended: VmEnded) -> None:
        self.told.append(ended)
        self.was_told.set()

    async def boot(self, vmid: int = 0, frozen: str | None = None) -> str:
        """A VM of the image micro, or of one that was frozen; its name."""
        order = order_of(vmid, frozen)
        await self.host.thaw(order)
        return order.identity.name

    def names(self) -> list[str]:
        """The VMs that the host agent has."""
        return sorted(vm.name for vm in self.host.agent.vms.all())

    def agree(self) -> None:
        """What the agent knows is what is there, and is written down."""
        names = self.names()
        assert sorted(process.name for process in self.room.processes.values()) == names
        assert sorted(self.room.records) == names

    def nothing_is_left(self) -> None:
        """No VM, machine, record, image; and all memory is free."""
        assert self.names() == []
        assert self.room.found() == []
        assert self.room.room_bytes() == self.room.memory_bytes


def order_of(vmid: int = 0, frozen: str | None = None) -> ThawOrder:
    """An order for the VM a-VMID."""
    identity = Identity(cluster="a", vmid=vmid, name=f"a-{vmid}", ip=ipv4_of(vmid))
    template = None if frozen else "micro"
    return ThawOrder(identity=identity, template=template, frozen=frozen)


@contextlib.asynccontextmanager
async def a_place() -> AsyncIterator[Place]:
    """Whatever a test did to it, its agent can leave."""
    place = Place()
    try:
        yield place
    finally:
        place.room.faults.forget()
        await place.host.make_agent().leave()
