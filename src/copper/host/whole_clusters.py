"""Suspend and resume of all VMs that a virtual cluster has on this host.

While a virtual cluster is stored its VMs are suspended, and what runs of them is a leftover: so an agent that is killed
in the middle leaves all of them running or all of them stored, and the next one needs only the disk to know which.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from copper.host.hypervisor import Image
from copper.host.vm import Vm
from copper.host.vms import Vms
from copper.image.suspended import SuspendedVm
from copper.model.api import ThawOrder
from copper.model.errors import BadInput, Conflict, CopperError, NotFound
from copper.wire.steps import step
from copper.wire.undo import undo

T = TypeVar("T")
log = logging.getLogger(__name__)


class WholeClusters:
    """What is done to the whole of a virtual cluster, once: the same again joins what is under way."""

    def __init__(self, vms: Vms) -> None:
        self._vms = vms
        self._hypervisor = vms.hypervisor
        self._at_work: dict[str, tuple[str, asyncio.Task[Any]]] = {}

    def suspended(self) -> dict[str, list[str]]:
        """The VMs of each suspended virtual cluster."""
        return {cluster: list(sizes) for cluster, sizes in self._hypervisor.suspended().items()}

    async def suspend(self, cluster: str, names: Sequence[str]) -> dict[str, int]:
        """Stores these VMs as they are at one instant and ends them; returns bytes on disk by VM.

        Raises NotFound, Conflict, NoRoom or CopperError; all of them go on then as they were.
        """
        return await self._once(cluster, "suspend", lambda: self._suspend(cluster, names))

    async def resume(self, cluster: str) -> list[Vm]:
        """Gives every VM back as it was. Raises what a thaw raises; all stay suspended then."""
        return await self._once(cluster, "resume", lambda: self._resume(cluster))

    async def forget(self, cluster: str) -> None:
        """Removes what is stored of a virtual cluster, if anything is."""
        await self._once(cluster, "forget", lambda: self._hypervisor.forget_cluster(cluster))

    async def _once(
        self, cluster: str, verb: str, work: Callable[[], Coroutine[None, None, T]]
    ) -> T:
        """Not ended by whoever asked for it and went away: half of it is worse than all."""
        doing, task = self._at_work.get(cluster, ("", None))
        if task is None:
            task = asyncio.create_task(work())
            self._at_work[cluster] = (verb, task)
            task.add_done_callback(lambda _: self._at_work.pop(cluster, None))
        elif doing != verb:
            raise Conflict(f"virtual cluster {cluster} is at its {doing}", advice="try again")
        result: T = await asyncio.shield(task)
        return result

    async def _suspend(self, cluster: str, names: Sequence[str]) -> dict[str, int]:
        stored = self._hypervisor.suspended().get(cluster)
        if stored is not None:
            if set(names) <= stored.keys():
                return stored
            raise Conflict(f"virtual cluster {cluster} is suspended, with other VMs")
        vms = [self._vms.get(name) for name in sorted(set(names))]
        if not vms:
            raise BadInput(f"no VMs of {cluster} were named")
        async with AsyncExitStack() as turns:
            for vm in vms:
                await turns.enter_async_context(vm.turn)
            frozen = await self._store(cluster, vms)
            await asyncio.gather(*(self._vms.end_suspended(vm) for vm in vms))
        for image in frozen:
            self._hypervisor.discard(image)
        await step("host.suspend-ended")
        return self._hypervisor.suspended()[cluster]

    async def _store(self, cluster: str, vms: Sequence[Vm]) -> list[Image]:
        """Returns with all VMs stopped, frozen and stored; the images are the caller's to discard."""
        for vm in vms:
            if vm.identity.cluster != cluster:
                raise BadInput(f"VM {vm.name} is not of virtual cluster {cluster}")
            if vm.state not in ("running", "paused"):
                raise Conflict(f"VM {vm.name} is {vm.state}")
        frozen: list[tuple[SuspendedVm, Image]] = []
        try:
            # all of them stand before the first is frozen: none hears of another's later
            await asyncio.gather(*(vm.machine.pause() for vm in vms))
            for vm in vms:
                image, _ = await vm.freeze(run_on=False)
                frozen.append((_suspended(vm), image))
            await step("host.suspend-frozen")
            await self._hypervisor.store_cluster(cluster, frozen)
            if gone := [vm.name for vm in vms if vm.state == "ending"]:
                await self._hypervisor.forget_cluster(cluster)
                raise Conflict(f"VM {gone[0]} ended while {cluster} was suspended")
            await step("host.suspend-stored")
        except BaseException:
            if cluster not in self._hypervisor.suspended():
                await undo(self._go_on(vms, [image for _, image in frozen]))
            raise
        return [image for _, image in frozen]

    async def _go_on(self, vms: Sequence[Vm], frozen: Sequence[Image]) -> None:
        for image in frozen:
            self._hypervisor.discard(image)
        for vm in vms:
            if vm.state != "ending":
                try:
                    self._vms.write_down(vm)  # its disk has stepped aside
                    if vm.state == "running":
                        await vm.machine.run()
                except CopperError as error:
                    log.error("VM %s does not go on: %s", vm.name, error)

    async def _resume(self, cluster: str) -> list[Vm]:
        if cluster not in self._hypervisor.suspended():
            there = [vm for vm in self._vms.all() if vm.identity.cluster == cluster]
            if there:
                return there
            raise NotFound(f"virtual cluster {cluster} is not suspended on this host")
        loaded = await self._hypervisor.load_cluster(cluster)
        made: list[Vm] = []
        try:
            await step("host.resume-loaded")
            shapes = [(image.shape, image.needs) for _, image in loaded]
            for shape, needs in set(shapes):
                self._hypervisor.prepare(shape, needs, shapes.count((shape, needs)))
            done = await asyncio.gather(
                *(self._thaw(vm, image) for vm, image in loaded), return_exceptions=True
            )
            made = [vm for vm in done if isinstance(vm, Vm)]
            for failed in done:
                if isinstance(failed, BaseException):
                    raise failed
            for (was, _), vm in zip(loaded, made, strict=True):
                if was.paused:
                    await self._vms.pause(vm.name)
            await self._hypervisor.forget_cluster(cluster)
        except BaseException:
            await undo(self._end(made))
            raise
        finally:
            for _, image in loaded:
                self._hypervisor.discard(image)
        await step("host.resumed")
        return made

    async def _end(self, vms: Sequence[Vm]) -> None:
        done = await asyncio.gather(
            *(self._vms.delete(vm.name) for vm in vms), return_exceptions=True
        )
        for vm, failed in zip(vms, done, strict=True):
            if failed is not None:
                log.error("VM %s does not end: %s", vm.name, failed)

    async def _thaw(self, was: SuspendedVm, image: Image) -> Vm:
        order = ThawOrder(
            identity=was.identity,
            event="resume",
            reserved_bytes=was.reserved_bytes,
            limits=was.limits,
            exposure=was.exposure,
        )
        source = (image, was.template, was.machine_id)
        return await self._vms.put(was.identity.name, order, source)

    async def close(self) -> None:
        """Returns when what is under way is done: neither half is left to the next agent."""
        await asyncio.gather(*(task for _, task in self._at_work.values()), return_exceptions=True)


def _suspended(vm: Vm) -> SuspendedVm:
    return SuspendedVm(
        identity=vm.identity,
        template=vm.template,
        paused=vm.state == "paused",
        limits=vm.limits,
        reserved_bytes=vm.reserved_bytes,
        machine_id=vm.machine_id,
        exposure=vm.exposure,
    )
