"""All VMs of this host: what the host agent does when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import Any

from copper.host.controller_link import ControllerLink
from copper.host.frozen import FrozenImages
from copper.host.hypervisor import Hypervisor, Image, Machine
from copper.host.names import Names
from copper.host.records import Records, VmRecord
from copper.host.refill import Refill
from copper.host.use import LatelyEnded, vm_use
from copper.host.vm import Vm
from copper.image.freeze import Pause
from copper.model.api import Event, ThawOrder, VmEnded, VmLimits, VmState
from copper.model.errors import BadInput, Conflict, CopperError, NoRoom, NotFound
from copper.model.settings import Settings
from copper.wire import trace
from copper.wire.steps import step
from copper.wire.undo import undo

CLOCK_LATE_S = 0.5  # a guest that was paused for longer is told the time
log = logging.getLogger(__name__)

# an image, its template's name, and the id of the machine that it was, if that is what it becomes again
Source = tuple[Image, str, str]


class Vms:
    """The VMs and the frozen images of one host, over its hypervisor."""

    def __init__(
        self,
        settings: Settings,
        hypervisor: Hypervisor,
        records: Records,
        controller: ControllerLink,
    ) -> None:
        self.settings = settings
        self.hypervisor = hypervisor
        self._records = records
        self._controller = controller
        self._vms: dict[str, Vm] = {}
        self._starting: dict[str, asyncio.Task[Vm]] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self.frozen = FrozenImages(hypervisor)
        self.lately_ended = LatelyEnded()
        self._refill = Refill(hypervisor, settings.standbys, self._starting, self.all)
        self._names = Names(self.all, settings)
        self._telling: set[asyncio.Task[None]] = set()
        # more guests that wake together only wait for each other
        self._waking = asyncio.Semaphore(2 * hypervisor.room().cpus)

    def all(self) -> list[Vm]:
        return list(self._vms.values())

    def states(self) -> dict[str, VmState]:
        """Those that it looks after, also those that begin or end now."""
        others: dict[str, VmState] = dict.fromkeys(self._starting, "starting")
        others |= dict.fromkeys(self._ending, "ending")
        return others | {vm.name: vm.state for vm in self._vms.values()}

    def __contains__(self, name: str) -> bool:
        return name in self._vms

    def get(self, name: str) -> Vm:
        """Raises NotFound."""
        if (vm := self._vms.get(name)) is None:
            raise NotFound(f"there is no VM {name!r} on this host")
        return vm

    def awake(self, name: str) -> Vm:
        """One whose guest can answer. Raises NotFound, Conflict."""
        vm = self.get(name)
        if vm.state == "paused":
            raise Conflict(f"VM {name} is paused", advice="gc-vc unpause lets it go on")
        return vm

    async def put(self, name: str, order: ThawOrder, source: Source | None = None) -> Vm:
        """Thaws an image as a VM of this name, once: the same order again gets the same VM.

        `source`: instead of the image that the order names.
        Raises Conflict when the name is another's; any error leaves nothing behind.
        """
        if order.identity.name != name:
            raise BadInput(f"the order for {name} is for {order.identity.name}")
        if (found := self._vms.get(name)) is not None:
            if found.identity != order.identity:
                raise Conflict(f"VM {name} runs already, as another")
            return found
        task = self._starting.get(name)
        if task is None:
            task = asyncio.create_task(self._thaw(order, source))
            self._starting[name] = task
            task.add_done_callback(lambda _: self._starting.pop(name, None))
        return await asyncio.shield(task)

    async def _image(self, order: ThawOrder) -> Source:
        if order.frozen is not None:
            return (*self.frozen.get(order.frozen), "")
        if order.template is None:
            raise BadInput("an order to thaw names a template or a frozen image")
        return await self.hypervisor.template(order.template), order.template, ""

    async def _thaw(self, order: ThawOrder, source: Source | None) -> Vm:
        with trace.line(order.identity.name), self._names.changing(order.identity.cluster):
            vm = await self._thaw_one(order, source)
        self._refill.soon()
        return vm

    async def _thaw_one(self, order: ThawOrder, source: Source | None) -> Vm:
        started = time.perf_counter()
        await step("host.thaw-began")
        image, template, machine_id = source or await self._image(order)
        name = order.identity.name
        ending = self._ending.get(name)
        if ending is not None:  # one of this name that died a moment ago
            await asyncio.wait({ending})
        async with self._waking:
            machine = await self.hypervisor.thaw(image, order.identity, self)
            vm = Vm.new(order, template, machine, machine_id)
            await self._begin(vm, order, started)
        return vm

    async def _begin(self, vm: Vm, order: ThawOrder, started: float) -> None:
        """Has the guest become the VM that it is for. It is among the others on return, and on their wire."""
        machine = vm.machine
        try:
            await step("host.thawed")
            if order.limits != VmLimits():
                machine.limit(order.limits)
            if order.exposure is not None:
                await machine.expose(order.exposure)
            self._records.write(vm.record())
            await step("host.recorded")
            await machine.run()
            await self._session(vm, order.event, order.call)
            self._names.before_link_up(vm)
            await machine.link_up()
            await step("host.running")
            vm.ready_ms = (time.perf_counter() - started) * 1000
            self._records.write(vm.record())
        except BaseException:
            await undo(self._take_back(vm))
            raise
        self._keep(vm)

    async def _take_back(self, vm: Vm) -> None:
        await vm.machine.end()
        self._records.remove(vm.name)

    async def _session(self, vm: Vm, event: Event, call: int | None = None) -> None:
        """Raises TimedOut, CopperError."""
        hosts = self._names.for_session(vm, siblings=event == "clone")
        await vm.begin(event, call, *hosts, deadline_s=self.settings.clone_deadline_s)

    def _keep(self, vm: Vm) -> None:
        self._vms[vm.name] = vm
        vm.machine.watch()

    # what machines tell

    async def called(self, name: str, verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        """A program in a guest asks the controller."""
        return await self._controller.call(name, call, verb, args)

    def said_hello(self, name: str) -> None:
        """An agent that was started again has no session: it gets one, with the same identity."""
        vm = self._vms.get(name)
        if vm is not None and vm.state == "running":
            self._tell(self._greet(vm))

    async def _greet(self, vm: Vm, event: Event = "adopt") -> None:
        try:
            await self._session(vm, event)
        except CopperError as error:
            log.warning("VM %s runs, but its agent does not answer: %s", vm.name, error)
        else:
            self._names.tell(vm.identity.cluster)  # it could not be told meanwhile

    async def _greet_in_turn(self, vm: Vm) -> None:
        async with self._waking:
            if self._vms.get(vm.name) is vm and vm.state == "running":
                await self._greet(vm)

    def ended(self, machine: Machine, reason: str) -> None:
        """A VM that ends on its own is cleaned up, and the controller is told why."""
        if (vm := self._vms.get(machine.name)) is None or vm.machine is not machine:
            return
        log.warning("VM %s ended: %s", vm.name, reason)
        self._tell(self._say_ended(self._end(vm), VmEnded(vm=vm.name, reason=reason)))

    async def _say_ended(self, ending: asyncio.Task[None], ended: VmEnded) -> None:
        await asyncio.wait({ending})
        await self._controller.ended(ended)

    def _tell(self, what: Coroutine[None, None, None]) -> asyncio.Task[None]:
        self._telling.add(task := asyncio.create_task(what))
        task.add_done_callback(self._telling.discard)
        return task

    def _end(self, vm: Vm) -> asyncio.Task[None]:
        """Nobody finds it from now on; whoever asks for its end, or for its name anew, waits for this task."""
        vm.state = "ending"
        self.lately_ended.add(vm_use(vm.identity, vm.machine))
        del self._vms[vm.name]
        task = self._ending[vm.name] = asyncio.create_task(self._clean(vm))
        task.add_done_callback(lambda _: self._ending.pop(vm.name, None))
        return task

    async def _clean(self, vm: Vm) -> None:
        with self._names.changing(vm.identity.cluster):
            try:
                await vm.machine.end()
            except CopperError:
                self._vms[vm.name] = vm  # it can be told to end again
                raise
            self._records.remove(vm.name)

    async def delete(self, name: str) -> None:
        """Ends a VM; its memory and its disk are free on return. None of this name: nothing to do."""
        if (task := self._starting.get(name)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await step("host.ending")
        vm = self._vms.get(name)
        ending = self._ending.get(name) if vm is None else self._end(vm)
        if ending is not None:
            await asyncio.shield(ending)
        await step("host.ended")
        if not self._vms and not self._starting:
            await self.hypervisor.drop_standbys()

    async def give_up(self, name: str, why: str) -> None:
        """Ends a VM without having been asked to: the controller is told why."""
        if (vm := self._vms.get(name)) is not None:
            ending = self._end(vm)
            await asyncio.shield(ending)
            await self._say_ended(ending, VmEnded(vm=name, reason=why))

    async def end_suspended(self, vm: Vm) -> None:
        """Ends a VM that is stored: nobody is told, for it is not gone."""
        await asyncio.shield(self._end(vm))

    def write_down(self, vm: Vm) -> None:
        """Its record, as it is now; one that ends has none. Raises NoRoom."""
        if self._vms.get(vm.name) is vm:
            self._records.write(vm.record())

    async def freeze(self, name: str) -> tuple[str, Pause, float]:
        """Freezes a VM into an image that `frozen` holds: its id, the pause, ms in all.

        Raises NotFound, Conflict when it ended meanwhile, NoRoom, CopperError.
        """
        vm = self.awake(name)
        await vm.guest()
        started = time.perf_counter()
        async with vm.turn:
            self.awake(name)
            image, pause = await self.frozen.freeze(vm)
        await step("host.frozen")
        self.write_down(vm)
        await step("host.freeze-recorded")
        return image.id, pause, (time.perf_counter() - started) * 1000

    async def pause(self, name: str, why: str = "") -> Vm:
        """Stops a VM's processors until `unpause`, also over an agent's end; again: nothing to do.

        `why`: when nobody asked for it. Raises NotFound, NoRoom, CopperError: it runs on.
        """
        vm = self.get(name)
        async with vm.turn:
            if vm.state not in ("running", "paused"):
                raise Conflict(f"VM {name} is {vm.state}")
            if vm.state == "paused" and (why or not vm.paused_for):
                return vm
            was = vm.state, vm.paused_for
            vm.state, vm.paused_for = "paused", why
            try:
                self.write_down(vm)
                await vm.machine.pause()
            except BaseException:
                if self._vms.get(name) is vm:  # it may have ended meanwhile
                    vm.state, vm.paused_for = was
                    with contextlib.suppress(NoRoom):
                        self.write_down(vm)
                raise
            if was[0] == "running":
                vm.paused_at = time.monotonic()
        return vm

    async def unpause(self, name: str) -> Vm:
        """Lets it go on. A guest that stood for long is told the time, in a new session."""
        vm = self.get(name)
        async with vm.turn:
            if vm.state == "paused":
                going = vm.record().model_copy(update={"paused": False, "paused_for": ""})
                self._records.write(going)
                await vm.machine.run()
                if time.monotonic() - vm.paused_at > CLOCK_LATE_S or not vm.paused_at:
                    await self._greet(vm, "resume")
                if vm.state == "paused":  # it may have ended meanwhile
                    vm.state, vm.paused_for = "running", ""
        return vm

    async def limit(self, name: str, limits: VmLimits) -> Vm:
        """Holds a VM to these limits from now on. Raises Refused, NoRoom: nothing changed."""
        vm = self.get(name)
        async with vm.turn:
            self.get(name)
            before = vm.limits
            vm.machine.limit(limits)
            vm.limits = limits
            try:
                self.write_down(vm)
            except BaseException:
                vm.limits = before
                vm.machine.limit(before)
                raise
        return vm

    def prepare(self, name: str, count: int) -> None:
        """Has standbys ready for clones of this VM, if they need any."""
        machine = self.get(name).machine
        if not machine.forks_by_copy:
            self.hypervisor.prepare(machine.shape, machine.needs, count)

    async def warm(self, name: str) -> None:
        """Has a stored image in memory and standbys for it. Raises NotFound, Damaged, Foreign."""
        image = await self.hypervisor.template(name)
        self.hypervisor.prepare(image.shape, image.needs, self.settings.standbys)

    async def delete_image(self, name: str) -> None:
        """Deletes a stored image. Raises Conflict while a VM stands on it."""
        users = sorted(vm.name for vm in self._vms.values() if vm.template == name)
        if users:
            raise Conflict(
                f"image {name} is in use by {', '.join(users[:5])}", advice="end them first"
            )
        await self.hypervisor.delete_image(name)

    async def adopt(self) -> None:
        """Finds the VMs of an earlier host agent, and clears away what it left half done."""
        suspended = {name for sizes in self.hypervisor.suspended().values() for name in sizes}
        records = []
        for record in self._records.all():
            if record.identity.name in suspended:  # an agent died before it had ended them all
                self._records.remove(record.identity.name)
            else:
                records.append(record)
        found = await asyncio.gather(*(self._adopt(record) for record in records))
        for vm in found:
            if vm is not None and vm.state == "running":
                # they are found: that their guests take a moment each holds up nobody else
                vm.greeting = self._tell(self._greet_in_turn(vm))
        known = {record.unit for record, vm in zip(records, found, strict=True) if vm is not None}
        await self.hypervisor.clear(known)

    async def _adopt(self, record: VmRecord) -> Vm | None:
        name = record.identity.name
        try:
            machine = await self.hypervisor.adopt(record, self)
        except NotFound as error:
            log.warning("VM %s is gone: %s", name, error)
            self._records.remove(name)
            await self._controller.ended(VmEnded(vm=name, reason="it ended with its host"))
            return None
        vm = Vm.of(record, machine)
        self._keep(vm)
        return vm

    async def leave(self) -> None:
        """The host agent ends; its VMs run on."""
        greetings = [vm.greeting for vm in self._vms.values() if vm.greeting is not None]
        for task in (*self._starting.values(), *greetings):
            task.cancel()
        going = (*self._starting.values(), *self._ending.values(), *greetings)
        await asyncio.gather(*going, return_exceptions=True)
        await self._refill.close()
        for vm in self._vms.values():
            self._records.write(vm.record())
            await vm.machine.leave()
        await self.hypervisor.close()
        self._vms.clear()
