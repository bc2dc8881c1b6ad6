"""Who gives way when a host runs out of memory: Copper chooses, by a stated order, and says why.

Of the memory that the host keeps for itself (COPPER_KEEP_FREE_MIB) a quarter may be used up before what serves no VM
now is given back (standbys), and what VMs wrote goes to swap where there is any (host.reclaim), half before VMs are
paused, one after another, and three quarters before VMs are ended.
A VM whose whole memory is reserved (`--memory-class guaranteed`) is never chosen. Of the others those that have more
than was reserved for them come first, and among them the youngest. What was paused goes on, in the opposite order, as
soon as all that the host keeps is free again. Each is written to the log, and a VM's own state and reason say it.
Should Copper be too late, the kernel chooses a QEMU (`OOM_SCORE` in vmm/process.py), never the agent. `decide` is
pure; `MemoryGuard` looks and acts.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterable
from typing import Literal

from copper.host.reclaim import Candidate, Reclaim
from copper.host.vms import Vms
from copper.model.errors import CopperError
from copper.model.settings import MIB

FIRST_LOOK_S = 1.0  # a controller that begins with the agent has read its state by then
LOOK_S = 0.5
LOOK_OFTEN_S = 0.05  # while less is free than the host keeps
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Holder:
    """A VM and its memory in bytes. `began`: seconds since 1970."""

    name: str
    own_bytes: int
    reserved_bytes: int
    began: float
    paused: Literal["", "asked", "for-memory"] = ""
    guaranteed: bool = False

    @property
    def beyond(self) -> int:
        return self.own_bytes - self.reserved_bytes


@dataclasses.dataclass(frozen=True)
class Action:
    """What is done to a VM, and why."""

    verb: Literal["pause", "unpause", "end"]
    vm: str
    why: str = ""


def in_order(vms: Iterable[Holder]) -> list[Holder]:
    """Those that may be chosen, who gives way first first."""
    return sorted(
        (vm for vm in vms if not vm.guaranteed),
        key=lambda vm: (vm.beyond <= 0, -vm.began, vm.name),
    )


def decide(available: int, keep: int, vms: Iterable[Holder]) -> list[Action]:
    """What to do when so many bytes are free of `keep` that should be."""
    order = in_order(vms)
    if available < keep // 4:
        return _end(available, keep, order)
    if available < keep // 2:
        running = [vm for vm in order if not vm.paused]
        return [Action("pause", vm.name, _why(vm, available, keep)) for vm in running[:1]]
    if available >= keep:
        waiting = [vm for vm in reversed(order) if vm.paused == "for-memory"]
        return [Action("unpause", vm.name) for vm in waiting[:1]]
    return []


def _end(available: int, keep: int, order: list[Holder]) -> list[Action]:
    """As many as give back enough that nobody else has to be ended next."""
    actions = []
    coming = available
    for vm in order:
        if coming >= keep // 2:
            break
        actions.append(Action("end", vm.name, _why(vm, available, keep)))
        coming += vm.own_bytes
    return actions


def _why(vm: Holder, available: int, keep: int) -> str:
    more = max(0, vm.beyond) // MIB
    return (
        f"its host is out of memory: {available // MIB} MiB are free of {keep // MIB} that it keeps,"
        f" and this VM has {more} MiB more than was reserved for it"
    )


class MemoryGuard:
    """Looks at a host's memory, and acts before the kernel would."""

    def __init__(self, vms: Vms) -> None:
        self._vms = vms
        self._keep = vms.settings.keep_free_mib * MIB
        self._reclaim = Reclaim(vms)
        self._task: asyncio.Task[None] | None = None
        self._gave_back = False

    def start(self) -> None:
        """Watches from now on, where the host says how much memory it has."""
        if self._keep and self._vms.hypervisor.room().available_bytes is not None:
            self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._reclaim.close()

    async def _watch(self) -> None:
        await asyncio.sleep(FIRST_LOOK_S)
        while True:
            available = self._vms.hypervisor.room().available_bytes or 0
            await self.look(available)
            await asyncio.sleep(LOOK_S if available >= self._keep else LOOK_OFTEN_S)

    async def look(self, available: int) -> None:
        """Does what `decide` says of so many free bytes."""
        await self._give_back(available)
        paused = any(vm.paused_for for vm in self._vms.all())
        if available >= self._becomes_short and not paused:
            return
        holders = self._holders()
        if available < self._becomes_short:
            giving = [Candidate(vm.name, vm.own_bytes, bool(vm.paused)) for vm in in_order(holders)]
            self._reclaim.soon(giving)
        for action in decide(available, self._keep, holders):
            log.warning("VM %s: %s%s", action.vm, action.verb, action.why and f": {action.why}")
            try:
                await self._do(action)
            except (CopperError, OSError) as error:
                log.error("VM %s cannot be told to %s: %s", action.vm, action.verb, error)

    @property
    def _becomes_short(self) -> int:
        return self._keep // 4 * 3

    async def _give_back(self, available: int) -> None:
        """What no VM needs now, once each time that memory becomes short."""
        if available >= self._keep:
            self._gave_back = False
        elif available < self._becomes_short and not self._gave_back:
            self._gave_back = True
            log.warning(
                "memory becomes short, standbys are ended: %d MiB are free of %d that this host keeps",
                available // MIB,
                self._keep // MIB,
            )
            await self._vms.hypervisor.drop_standbys()

    def _holders(self) -> list[Holder]:
        holders = []
        for vm in self._vms.all():
            paused: Literal["", "asked", "for-memory"] = ""
            if vm.state == "paused":
                paused = "for-memory" if vm.paused_for else "asked"
            own, nominal = vm.machine.own_bytes(), vm.machine.shape.memory_bytes
            reserved = vm.reserved_bytes
            holders.append(Holder(vm.name, own, reserved, vm.began, paused, reserved >= nominal))
        return holders

    async def _do(self, action: Action) -> None:
        if action.verb == "pause":
            await self._vms.pause(action.vm, action.why)
        elif action.verb == "unpause":
            await self._vms.unpause(action.vm)
        else:
            await self._vms.give_up(action.vm, action.why)
