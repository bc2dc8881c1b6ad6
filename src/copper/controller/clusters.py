"""Virtual clusters: made, booted, forked, ended. Decided here, written down first, done by a host."""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Sequence

from copper.controller.hosts import Host
from copper.controller.state import (
    LIVE,
    ClusterDoc,
    State,
    Ticket,
    cluster_key,
    now,
    shown,
    ticket_key,
    vm_key,
)
from copper.controller.tickets import Tickets, new_ticket
from copper.model.api import Cluster, Frozen, NewCluster, ThawOrder, Vm, VmEnded, VmStatus
from copper.model.errors import BadInput, Conflict, CopperError, NotFound
from copper.model.machine import Identity, address_of
from copper.model.names import check_name, vm_name
from copper.store.contract import Changed

log = logging.getLogger(__name__)


class Clusters:
    """What may be asked of virtual clusters."""

    def __init__(self, state: State, host: Host, host_name: str) -> None:
        self._state = state
        self._store = state.store
        self._host = host
        self._host_name = host_name
        self._ending: set[str] = set()
        self.tickets = Tickets(state, host)
        self._forks: dict[str, set[asyncio.Task[list[Vm]]]] = collections.defaultdict(set)

    async def create(self, new: NewCluster) -> Cluster:
        """Raises BadInput, NotFound (image) or Conflict (the name exists)."""
        check_name(new.name, "virtual cluster")
        check_name(new.image, "image")
        images = {image.name: image for image in await self._host.images()}
        image = images.get(new.image)
        if image is None:
            known = ", ".join(images) or "there are none; copper image build makes one"
            raise NotFound(f"there is no image {new.image!r}", advice=f"images: {known}")
        for field, wanted, has in (
            ("memory", new.memory_mib, image.memory_mib),
            ("cpus", new.cpus, image.cpus),
        ):
            if wanted is not None and wanted != has:
                raise BadInput(
                    f"{field} {wanted}: image {new.image} was booted with {has}",
                    advice=f"build an image with --{field} {wanted}",
                )
        doc = ClusterDoc.model_validate(
            {
                "name": new.name,
                "image": new.image,
                "shape": {
                    "memory_mib": image.memory_mib,
                    "cpus": image.cpus,
                    "disk_bytes": image.disk_bytes,
                },
                "created": now(),
            }
        )
        try:
            await self._store.commit(
                expect={cluster_key(new.name): 0}, put={cluster_key(new.name): doc.model_dump()}
            )
        except Changed:
            raise Conflict(f"virtual cluster {new.name!r} exists") from None
        await self._host.warm(new.image)
        return shown(doc, [])

    async def warm(self) -> None:
        """Has the images of all virtual clusters in memory before they are asked for."""
        for image in {doc.image for doc in await self._state.clusters()}:
            try:
                await self._host.warm(image)
            except CopperError as error:
                log.warning("image %s is not ready: %s", image, error)

    async def all(self) -> list[Cluster]:
        vms = await self._state.vms()
        return [shown(doc, vms) for doc in await self._state.clusters()]

    async def show(self, name: str) -> Cluster:
        doc, _ = await self._state.cluster(name)
        return shown(doc, await self._state.vms(name))

    async def boot(self, name: str) -> Vm:
        """Starts the master from the image's template. Raises Conflict when the cluster runs."""
        doc, revision = await self._state.cluster(name)
        old = await self._state.vms(name)
        if any(vm.state in LIVE for vm in old):
            raise Conflict(
                f"virtual cluster {name!r} runs already", advice=f"gc-vc kill {name} ends it"
            )
        master = self._new_vm(doc, 0, 0, None)
        own = new_ticket(master, doc.shape.cpus, 1, doc.shape.cpus, "used")
        master = master.model_copy(update={"ticket": own.id})
        doc = doc.model_copy(update={"next_vmid": 1, "next_generation": 1})
        try:
            await self._store.commit(
                expect={cluster_key(name): revision},
                put={
                    cluster_key(name): doc.model_dump(),
                    vm_key(master.name): master.model_dump(),
                    ticket_key(own.id): own.model_dump(),
                },
                delete=[vm_key(vm.name) for vm in old if vm.name != master.name],
            )
        except Changed:
            raise Conflict(f"virtual cluster {name!r} is being changed by another") from None
        order = ThawOrder(identity=_identity(master, []), template=doc.image)
        try:
            await self._host.thaw(order)
        except BaseException:
            await asyncio.shield(self._undo([master.name]))
            raise
        return (await self._running([master]))[0]

    def _new_vm(self, doc: ClusterDoc, vmid: int, generation: int, parent: int | None) -> Vm:
        return Vm(
            name=vm_name(doc.name, vmid),
            cluster=doc.name,
            vmid=vmid,
            ip=address_of(vmid),
            generation=generation,
            parent=parent,
            state="starting",
            host=self._host_name,
            created=now(),
        )

    async def clone(self, caller: Vm, count: int, call: int, ticket_id: object = None) -> list[Vm]:
        """Forks a VM into `count` more, or onto all that a ticket holds; all or none.

        A caller that goes away changes nothing: the fork was asked for. Raises NoRoom, NotFound (ticket) or what
        went wrong; nothing is left then, and the ticket is as it was.
        """
        fork = asyncio.create_task(self._clone(caller, count, call, ticket_id))
        forks = self._forks[caller.cluster]
        forks.add(fork)
        fork.add_done_callback(forks.discard)
        try:
            return await asyncio.shield(fork)
        except asyncio.CancelledError:
            if fork.cancelled():
                raise Conflict(f"virtual cluster {caller.cluster!r} was killed") from None
            raise

    async def _clone(self, caller: Vm, count: int, call: int, ticket_id: object) -> list[Vm]:
        if ticket_id is None:  # ticket and fork in one
            await self.tickets.check_room(count)
            doc, _ = await self._state.cluster(caller.cluster)
            ticket, revision = new_ticket(caller, doc.shape.cpus, count, doc.shape.cpus, "used"), 0
        else:
            ticket, revision = await self.tickets.to_use(caller, ticket_id)
            count = ticket.vms
        # names are written down while the caller is frozen: neither needs the other
        frozen = asyncio.create_task(self._host.freeze(caller.name))
        planned = asyncio.create_task(self._plan(caller, ticket, revision))
        thaws: list[asyncio.Task[VmStatus]] = []
        try:
            image = (await frozen).image
            # not before: a process that starts would make the pause longer
            await self._host.prepare(caller.name, count)
            clones = await planned
            vmids = [vm.vmid for vm in clones]
            for vm in clones:
                order = ThawOrder(
                    identity=_identity(vm, vmids), frozen=image, event="clone", call=call
                )
                thaws.append(asyncio.create_task(self._host.thaw(order)))
            await asyncio.gather(*thaws)
            return await self._running(clones)
        except BaseException:
            for thaw in thaws:
                thaw.cancel()
            await asyncio.shield(self._undo_fork(planned, thaws, ticket, revision))
            raise
        finally:
            await asyncio.shield(self._release(frozen))

    def forks_of(self, cluster: str) -> list[asyncio.Task[list[Vm]]]:
        """The forks of a virtual cluster that are under way."""
        return list(self._forks[cluster])

    async def _plan(self, caller: Vm, ticket: Ticket, revision: int) -> Sequence[Vm]:
        """Writes down the clones' names, and that the ticket is used, before any host is told of them."""
        used = ticket.model_copy(update={"status": "used", "expires": None})
        while True:
            doc, before = await self._state.cluster(caller.cluster)
            clones = [
                self._new_vm(doc, doc.next_vmid + i, doc.next_generation, caller.vmid).model_copy(
                    update={"ticket": ticket.id, "lineage": [*caller.lineage, caller.vmid]}
                )
                for i in range(ticket.vms)
            ]
            updated = doc.model_copy(
                update={
                    "next_vmid": doc.next_vmid + ticket.vms,
                    "next_generation": doc.next_generation + 1,
                }
            )
            put = {vm_key(vm.name): vm.model_dump() for vm in clones}
            put[cluster_key(doc.name)] = updated.model_dump()
            put[ticket_key(ticket.id)] = used.model_dump()
            expect = {cluster_key(doc.name): before, ticket_key(ticket.id): revision}
            try:
                await self._store.commit(expect=expect, put=put)
            except Changed:
                if revision:
                    await self.tickets.to_use(caller, ticket.id)
                continue  # another clone call of this cluster was first
            return clones

    async def _undo_fork(
        self,
        planned: asyncio.Task[Sequence[Vm]],
        thaws: Sequence[asyncio.Task[VmStatus]],
        ticket: Ticket,
        revision: int,
    ) -> None:
        await asyncio.gather(*thaws, return_exceptions=True)
        clones = (await asyncio.gather(planned, return_exceptions=True))[0]
        if isinstance(clones, BaseException):
            return
        await self._undo([vm.name for vm in clones])
        key = ticket_key(ticket.id)
        if revision:
            await self._store.commit(put={key: ticket.model_dump()})
        else:
            await self._store.commit(delete=[key])

    async def _release(self, frozen: asyncio.Task[Frozen]) -> None:
        image = (await asyncio.gather(frozen, return_exceptions=True))[0]
        if not isinstance(image, BaseException):
            await self._host.release(image.image)

    async def _undo(self, names: Sequence[str]) -> None:
        for name in names:
            await self._host.end(name)
        await self._store.commit(delete=[vm_key(name) for name in names])

    async def _running(self, vms: Sequence[Vm]) -> list[Vm]:
        done = [vm.model_copy(update={"state": "running"}) for vm in vms]
        await self._store.commit(put={vm_key(vm.name): vm.model_dump() for vm in done})
        return done

    async def kill(self, name: str) -> list[str]:
        """Ends all VMs of a virtual cluster; returns their names. It can be booted again."""
        await self._state.cluster(name)
        forks = self.forks_of(name)
        for fork in forks:
            fork.cancel()  # each undoes itself
        await asyncio.gather(*forks, return_exceptions=True)
        vms = await self._state.vms(name)
        tickets = [t for t in await self._state.tickets() if t.cluster == name]
        await self.end(vms)
        await self._store.commit(delete=[ticket_key(ticket.id) for ticket in tickets])
        return [vm.name for vm in vms if vm.state in LIVE]

    async def end(self, vms: Sequence[Vm]) -> None:
        """Ends VMs and forgets them; what they had is free on return."""
        names = {vm.name for vm in vms}
        self._ending |= names
        try:
            await asyncio.gather(*(self._host.end(name) for name in names))
        finally:
            self._ending -= names
        await self._store.commit(delete=[vm_key(name) for name in names])

    async def delete(self, name: str) -> None:
        """Forgets a virtual cluster. Raises Conflict while it runs."""
        _, revision = await self._state.cluster(name)
        vms = await self._state.vms(name)
        if any(vm.state in LIVE for vm in vms):
            raise Conflict(
                f"virtual cluster {name!r} runs", advice=f"gc-vc kill {name} ends its VMs first"
            )
        keys = [cluster_key(name), *(vm_key(vm.name) for vm in vms)]
        await self._store.commit(expect={cluster_key(name): revision}, delete=keys)

    async def delete_image(self, name: str) -> None:
        """Deletes a stored image. Raises Conflict while a virtual cluster stands on it."""
        check_name(name, "image")
        users = [doc.name for doc in await self._state.clusters() if doc.image == name]
        if users:
            raise Conflict(
                f"image {name} is in use by {', '.join(users[:5])}",
                advice=f"gc-vc delete {users[0]} lets go of it",
            )
        await self._host.delete_image(name)

    async def ended(self, ended: VmEnded) -> None:
        """A VM ended on its own: it stays in the lists, with the reason, until its cluster is killed or booted."""
        entry = await self._store.get(vm_key(ended.vm))
        if entry is None or ended.vm in self._ending:
            return
        vm = Vm.model_validate(entry.value)
        if vm.state == "running":
            dead = vm.model_copy(update={"state": "dead", "reason": ended.reason})
            await self._store.commit(put={vm_key(vm.name): dead.model_dump()})

    async def reconcile(self) -> None:
        """After a start: finishes or undoes what was begun, by what the host has."""
        there = {vm.name for vm in await self._host.vms()}
        known = {vm.name: vm for vm in await self._state.vms()}
        for vm in known.values():
            if vm.state == "starting":
                log.warning("VM %s was not finished: undone", vm.name)
                await self._undo([vm.name])
            elif vm.state in LIVE and vm.name not in there:
                await self.ended(VmEnded(vm=vm.name, reason="it ended with its host"))
        for name in there - known.keys():
            log.warning("VM %s is nobody's: ended", name)
            try:
                await self._host.end(name)
            except CopperError as error:
                log.error("VM %s could not be ended: %s", name, error)


def _identity(vm: Vm, vmids: Sequence[int]) -> Identity:
    return Identity(
        cluster=vm.cluster,
        vmid=vm.vmid,
        name=vm.name,
        ip=vm.ip,
        parent=vm.parent,
        generation=vm.generation,
        ticket=vm.ticket,
        vmids=list(vmids),
    )
