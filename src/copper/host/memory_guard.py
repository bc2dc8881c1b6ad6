"""Who gives way when a host runs out of memory: Copper chooses, by a stated order, and says why.

Of the memory that the host keeps for itself (COPPER_KEEP_FREE_MIB) a quarter may be used up before what serves no VM
now is given back (standbys), and what VMs wrote goes to swap where there is any (host.reclaim), half before VMs are
paused, and three quarters before VMs are ended. VMs are paused earlier, and many at once, where memory goes so fast
that a quarter would not be left: host.brake holds them, and they are paused from here.
A VM whose whole memory is reserved (`--memory-class guaranteed`) is never chosen. Of the others those that have more
than was reserved for them come first, and among them the youngest. What was paused goes on, in the opposite order, as
soon as all that the host keeps is free again. When none runs any more and memory does not come back, some are ended so
that the others go on. Each is written to the log, and a VM's own state and reason say it.
Should Copper be too late, the kernel chooses a QEMU (`OOM_SCORE` in vmm/process.py), never the agent. `decide` is
pure; `MemoryGuard` looks and acts.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterable
from typing import Literal

from copper.host.brake import NEAR, Brake
from copper.host.reclaim import Candidate, Reclaim
from copper.host.vms import Vms
from copper.model.errors import CopperError
from copper.model.settings import MIB

FIRST_LOOK_S = 1.0  # a controller that begins with the agent has read its state by then
LOOK_S = 0.5
LOOK_OFTEN_S = 0.1  # while less is free than the host keeps
OWN_S, OWN_OFTEN_S = 2.0, 0.5  # for so long it is true enough what VMs hold: 0.1 ms to read each
GO_ON_SHARE = 16  # of those that stand at most one of so many goes on at once
GO_ON_BYTES = 64 * MIB  # beyond what is kept, for each after the first that goes on
AHEAD_S = 1.0  # nobody goes on where all that is kept would not be free for so long
STUCK_S = 30.0  # that all may stand before one is ended so that the others go on
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

    verb: Literal["unpause", "end"]
    vm: str
    why: str = ""


def why(beyond: int, available: int, keep: int) -> str:
    """What is said of a VM that gives way when so many bytes are free of `keep`. `beyond`: what was reserved for it."""
    return (
        f"its host is out of memory: {available // MIB} MiB are free of {keep // MIB} that it keeps,"
        f" and this VM has {max(0, beyond) // MIB} MiB more than was reserved for it"
    )


def in_order(vms: Iterable[Holder]) -> list[Holder]:
    """Those that may be chosen, who gives way first first."""
    return sorted(
        (vm for vm in vms if not vm.guaranteed),
        key=lambda vm: (vm.beyond <= 0, -vm.began, vm.name),
    )


def decide(
    available: int, keep: int, vms: Iterable[Holder], rate: float = 0.0, *, stuck: bool = False
) -> list[Action]:
    """What to do when so many bytes are free of `keep` that should be, and so many are lost each second.

    `stuck`: all that may be chosen have stood for long, so that nothing but their end gives memory back.
    """
    order = in_order(vms)
    if available < keep // 4:
        return _end(available, keep, order, until=keep // 2)
    if stuck and available < keep:
        return _end(available, keep, order[:-1], until=keep)
    if available >= keep and available - rate * AHEAD_S >= keep:
        waiting = [vm for vm in reversed(order) if vm.paused == "for-memory"]
        at_once = min(-(-len(waiting) // GO_ON_SHARE), 1 + (available - keep) // GO_ON_BYTES)
        return [Action("unpause", vm.name) for vm in waiting[:at_once]]
    return []


def _end(available: int, keep: int, order: list[Holder], until: int) -> list[Action]:
    """As many as give back enough that nobody else has to be ended next."""
    actions = []
    coming = available
    for vm in order:
        if coming >= until:
            break
        actions.append(Action("end", vm.name, why(vm.beyond, available, keep)))
        coming += vm.own_bytes
    return actions


class MemoryGuard:
    """Looks at a host's memory, and acts before the kernel would."""

    def __init__(self, vms: Vms) -> None:
        self._vms = vms
        self._keep = vms.settings.keep_free_mib * MIB
        self._reclaim = Reclaim(vms)
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gave_back = False
        self._stand_since: float | None = None  # all that may be chosen
        self._own: dict[str, int] = {}  # bytes, by VM
        self._own_at = float("-inf")
        self._called = asyncio.Event()
        self._pausing: set[asyncio.Task[None]] = set()
        # who is paused runs until its monitor has said so: few at a time
        self._at_once = asyncio.Semaphore(2 * vms.hypervisor.room().cpus)
        self.brake = Brake(self._keep, self._available, self._hold, self._call)

    def start(self) -> None:
        """Watches from now on, where the host says how much memory it has."""
        if self._keep and self._vms.hypervisor.available_bytes() is not None:
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.create_task(self._watch())
            self.brake.start()

    async def close(self) -> None:
        """Who is held goes on or is paused before this returns."""
        await asyncio.to_thread(self.brake.close)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.pause_held()
        await asyncio.gather(*self._pausing)
        await self._reclaim.close()

    # in the brake's thread

    def _available(self) -> int:
        return self._vms.hypervisor.available_bytes() or 0

    def _hold(self, name: str) -> bool:
        if name not in self._vms:
            return False
        self._vms.get(name).machine.hold()
        return True

    def _call(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._called.set)

    # in the host agent's loop

    async def _watch(self) -> None:
        await asyncio.sleep(FIRST_LOOK_S)
        while True:
            available = self._available()
            await self.look(available)
            with contextlib.suppress(TimeoutError):
                rest_s = LOOK_S if available >= self._keep else LOOK_OFTEN_S
                await asyncio.wait_for(self._called.wait(), rest_s)
            self._called.clear()

    async def look(self, available: int) -> None:
        """Does what `decide` says of so many free bytes; who may be held next is offered to the brake."""
        self.pause_held()
        await self._give_back(available)
        if available >= NEAR * self._keep and not any(vm.paused_for for vm in self._vms.all()):
            self._offer(self._holders())
            return
        self._read_own(OWN_OFTEN_S if available < self._keep else OWN_S)
        holders = self._holders()
        self._offer(holders)
        if available < self._becomes_short:
            giving = [Candidate(vm.name, vm.own_bytes, bool(vm.paused)) for vm in in_order(holders)]
            self._reclaim.soon(giving)
        stuck = self._are_stuck(holders)
        actions = decide(available, self._keep, holders, self.brake.rate or 0.0, stuck=stuck)
        await asyncio.gather(*(self._do(action) for action in actions))

    def _are_stuck(self, holders: Iterable[Holder]) -> bool:
        stand = {vm.paused for vm in in_order(holders)}
        if "" in stand or "for-memory" not in stand:
            self._stand_since = None
            return False
        now = time.monotonic()
        self._stand_since = self._stand_since or now
        return now - self._stand_since >= STUCK_S

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

    def _read_own(self, valid_s: float) -> None:
        now, vms = time.monotonic(), self._vms.all()
        if now - self._own_at >= valid_s:
            self._own_at, self._own = now, {}
        for vm in vms:
            if vm.name not in self._own:
                self._own[vm.name] = vm.machine.own_bytes()

    def _holders(self) -> list[Holder]:
        holders = []
        for vm in self._vms.all():
            paused: Literal["", "asked", "for-memory"] = ""
            if vm.state == "paused":
                paused = "for-memory" if vm.paused_for else "asked"
            own, nominal = self._own.get(vm.name, 0), vm.machine.shape.memory_bytes
            reserved = vm.reserved_bytes
            holders.append(Holder(vm.name, own, reserved, vm.began, paused, reserved >= nominal))
        return holders

    def _offer(self, holders: Iterable[Holder]) -> None:
        self.brake.offer([vm.name for vm in in_order(holders) if not vm.paused])

    def pause_held(self) -> None:
        """Begins to pause whom the brake holds."""
        for name, free in self.brake.take().items():
            self._pausing.add(task := asyncio.create_task(self._pause(name, free)))
            task.add_done_callback(self._pausing.discard)

    async def _pause(self, name: str, free: int) -> None:
        try:
            vm = self._vms.get(name)
            said = why(vm.machine.own_bytes() - vm.reserved_bytes, free, self._keep)
            async with contextlib.nullcontext() if vm.turn.locked() else self._at_once:
                if vm.turn.locked():  # held in the middle of its fork, which needs its monitor
                    vm.machine.go_on()
                await self._vms.pause(name, said)
            log.warning("VM %s: pause: %s", name, said)
        except (CopperError, OSError) as error:
            if name in self._vms:  # otherwise it has ended meanwhile
                log.error("VM %s cannot be told to pause: %s", name, error)
        finally:
            if name in self._vms:
                self._vms.get(name).machine.go_on()
            self.brake.settled(name)

    async def _do(self, action: Action) -> None:
        log.warning("VM %s: %s%s", action.vm, action.verb, action.why and f": {action.why}")
        try:
            if action.verb == "unpause":
                await self._vms.unpause(action.vm)
            else:
                await self._vms.give_up(action.vm, action.why)
        except (CopperError, OSError) as error:
            log.error("VM %s cannot be told to %s: %s", action.vm, action.verb, error)
