"""The hosts that a controller has: what it may tell each to do, and what each last said of itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Protocol

from copper.controller.capacity import Capacity
from copper.model.api import (
    Frozen,
    HostReport,
    ImageInfo,
    StandbyOrder,
    ThawOrder,
    VmLimits,
    VmStatus,
)
from copper.model.audit import Inventory
from copper.model.errors import CopperError, NotFound
from copper.model.networks import Exposure
from copper.wire.http import Peer

MOST_FOR_REPORTS = 0.15  # of a processor
LONGEST_ROUND_S = 30.0
ANSWER_S = 5.0  # a host that measures itself for longer is taken for one that does not answer

log = logging.getLogger(__name__)


class Host(Protocol):
    """What a controller may tell a host agent to do. Every call may raise CopperError, and may be repeated."""

    async def report(self) -> HostReport: ...
    async def images(self) -> list[ImageInfo]: ...
    async def delete_image(self, name: str) -> None: ...
    async def warm(self, image: str) -> None:
        """Has a stored image in memory, checked, and processes ready for it."""
        ...

    async def vms(self) -> list[VmStatus]: ...
    async def thaw(self, order: ThawOrder) -> VmStatus: ...
    async def end(self, name: str) -> None: ...
    async def freeze(self, name: str) -> Frozen: ...
    async def release(self, image: str) -> None: ...
    async def release_all(self) -> None:
        """Lets go of all that was frozen for forks which nobody goes on with."""
        ...

    async def prepare(self, vm: str, count: int) -> None: ...
    async def pause(self, name: str) -> None: ...
    async def unpause(self, name: str) -> None: ...
    async def limit(self, name: str, limits: VmLimits) -> None: ...
    async def expose(self, name: str, exposure: Exposure) -> None:
        """How the world reaches a VM from now on, and what of it the VM reaches. Raises Refused."""
        ...

    async def suspend(self, cluster: str, vms: list[str]) -> None: ...
    async def resume(self, cluster: str) -> None: ...
    async def discard(self, cluster: str) -> None:
        """Forgets a suspended virtual cluster."""
        ...

    async def suspended(self) -> dict[str, list[str]]:
        """The suspended virtual clusters that are stored here, and their VMs."""
        ...

    async def inventory(self) -> Inventory: ...
    async def mend(self, thing: str, name: str) -> None: ...


class HttpHost:
    """A host agent, over HTTP."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def _ask(self, method: str, path: str, body: Any = None, timeout_s: float = 120) -> Any:
        return await self._peer.request(method, "/host/v1" + path, body, timeout_s=timeout_s)

    async def report(self) -> HostReport:
        return HostReport.model_validate(await self._ask("GET", "/report"))

    async def images(self) -> list[ImageInfo]:
        return [ImageInfo.model_validate(image) for image in await self._ask("GET", "/images")]

    async def delete_image(self, name: str) -> None:
        await self._ask("DELETE", f"/images/{name}")

    async def warm(self, image: str) -> None:
        await self._ask("POST", f"/images/{image}/warm")

    async def vms(self) -> list[VmStatus]:
        return [VmStatus.model_validate(vm) for vm in await self._ask("GET", "/vms")]

    async def thaw(self, order: ThawOrder) -> VmStatus:
        path = f"/vms/{order.identity.name}"
        return VmStatus.model_validate(await self._ask("PUT", path, order, timeout_s=600))

    async def end(self, name: str) -> None:
        await self._ask("DELETE", f"/vms/{name}")

    async def freeze(self, name: str) -> Frozen:
        return Frozen.model_validate(await self._ask("POST", f"/vms/{name}/freeze"))

    async def release(self, image: str) -> None:
        await self._ask("DELETE", f"/frozen/{image}")

    async def release_all(self) -> None:
        await self._ask("DELETE", "/frozen")

    async def prepare(self, vm: str, count: int) -> None:
        await self._ask("POST", "/standbys", StandbyOrder(vm=vm, count=count))

    async def pause(self, name: str) -> None:
        await self._ask("POST", f"/vms/{name}/pause")

    async def unpause(self, name: str) -> None:
        await self._ask("POST", f"/vms/{name}/unpause")

    async def limit(self, name: str, limits: VmLimits) -> None:
        await self._ask("PUT", f"/vms/{name}/limits", limits)

    async def expose(self, name: str, exposure: Exposure) -> None:
        await self._ask("PUT", f"/vms/{name}/exposure", exposure)

    async def suspend(self, cluster: str, vms: list[str]) -> None:
        await self._ask("POST", f"/clusters/{cluster}/suspend", {"vms": vms}, timeout_s=3600)

    async def resume(self, cluster: str) -> None:
        await self._ask("POST", f"/clusters/{cluster}/resume", timeout_s=3600)

    async def discard(self, cluster: str) -> None:
        await self._ask("DELETE", f"/clusters/{cluster}/suspended")

    async def suspended(self) -> dict[str, list[str]]:
        found = await self._ask("GET", "/suspended")
        return {str(cluster): [str(vm) for vm in vms] for cluster, vms in found.items()}

    async def inventory(self) -> Inventory:
        return Inventory.model_validate(await self._ask("GET", "/inventory"))

    async def mend(self, thing: str, name: str) -> None:
        await self._ask("POST", "/mend", {"thing": thing, "name": name})


class Hosts:
    """All hosts by name. `capacity` has what those say that answer."""

    def __init__(self, capacity: Capacity, report_s: float = 2.0) -> None:
        self.capacity = capacity
        self.reports: dict[str, HostReport] = {}
        self._links: dict[str, Host] = {}
        self.report_s = report_s
        self.round_s = report_s  # how long it takes now until each host has been measured again
        self._cost_s = 0.0  # processor time of one report, as it was lately
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._watchers: list[Callable[[HostReport], None]] = []

    def add(self, name: str, link: Host) -> None:
        self._links[name] = link

    def names(self) -> list[str]:
        return sorted(self._links)

    def get(self, name: str) -> Host:
        """Raises NotFound."""
        link = self._links.get(name)
        if link is None:
            known = ", ".join(self.names()[:5]) or "there are none"
            raise NotFound(f"there is no host {name!r}", advice=f"hosts: {known}")
        return link

    def on_report(self, seen: Callable[[HostReport], None]) -> None:
        self._watchers.append(seen)

    async def refresh(self, *names: str) -> None:
        """Has these hosts measured now; who asks while one measures waits for that."""
        waiting = [self._measured_soon(name) for name in names or self.names()]
        await asyncio.gather(*(asyncio.shield(task) for task in waiting))

    def _measured_soon(self, name: str) -> asyncio.Task[None]:
        task = self._asking.get(name)
        if task is None:
            task = asyncio.create_task(self._ask(name))
            self._asking[name] = task
            task.add_done_callback(partial(self._asked, name))
        return task

    def _asked(self, name: str, _: asyncio.Task[None]) -> None:
        del self._asking[name]

    async def _ask(self, name: str) -> None:
        began = time.thread_time()
        await self._measure(name)
        self._cost_s += (time.thread_time() - began - self._cost_s) / 16

    async def _measure(self, name: str) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                report = await self._links[name].report()
        except (CopperError, TimeoutError) as error:
            if name in self.reports:
                log.warning("host %s does not answer: %s", name, error)
            self.reports.pop(name, None)
            self.capacity.forget(name)
            return
        self.reports[name] = report
        self.capacity.report(report)
        for seen in self._watchers:
            try:
                seen(report)
            except Exception:  # a defect in what follows reports must not end the reports
                log.exception("a report of host %s was not taken in", name)

    async def watch(self) -> None:
        """Has all hosts measured again and again, until it is cancelled: each once in `round_s`.

        That is `report_s`, and longer where measuring so many hosts would leave no time for who asks for something.
        """
        clock = asyncio.get_running_loop().time
        while True:
            began, names = clock(), self.names()
            busy_s = len(names) * self._cost_s / MOST_FOR_REPORTS
            self.round_s = max(self.report_s, min(busy_s, LONGEST_ROUND_S))
            for number, name in enumerate(names):
                # one after the other: all reports at once would hold up whoever asks for something
                due = began + self.round_s * number / len(names)
                await asyncio.sleep(max(0.0, due - clock()))
                self._measured_soon(name)
            await asyncio.sleep(max(0.0, began + self.round_s - clock()))

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Watches for as long as the context is open."""
        task = asyncio.create_task(self.watch())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
