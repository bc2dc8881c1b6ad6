"""Virtual clusters: made, booted, limited, ended. Decided here, written down first, done by hosts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from copper.controller.book import Book, now
from copper.controller.endings import Endings
from copper.controller.exposures import Exposures
from copper.controller.hosts import Hosts
from copper.controller.leases import Leases
from copper.controller.logins import new_login_key
from copper.controller.networks import Networks, attached, check_egress
from copper.controller.rows import (
    LIVE,
    ClusterRow,
    cluster_key,
    login_key,
    network_key,
    state_of,
    ticket_key,
    vm_key,
)
from copper.controller.tickets import Tickets
from copper.model.api import (
    Cluster,
    ImageInfo,
    Limits,
    NewCluster,
    ThawOrder,
    Vm,
    VmLimits,
    VmStatus,
)
from copper.model.errors import BadInput, Conflict, CopperError, NoRoom, NotFound
from copper.model.machine import Identity, Record, Shape
from copper.model.names import check_name, vm_name
from copper.model.ssh import LoginKey
from copper.net.addresses import ipv4_of, ipv6_of
from copper.store.contract import Changed
from copper.wire.steps import step
from copper.wire.undo import undo

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # parts done, of how many
ASKED_FOR_IMAGES = 8  # hosts: all have the same images until they fetch them from each other


def no_progress(done: int, parts: int) -> None:
    """For callers that do not follow."""


class Clusters:
    """What may be asked of virtual clusters, but for forks and what is done to the whole of one."""

    def __init__(
        self,
        book: Book,
        hosts: Hosts,
        tickets: Tickets,
        endings: Endings,
        leases: Leases,
        networks: Networks,
        exposures: Exposures,
    ) -> None:
        self._book = book
        self._hosts = hosts
        self._tickets = tickets
        self._endings = endings
        self._leases = leases
        self._networks = networks
        self._exposures = exposures

    # reading

    def shown(self, row: ClusterRow) -> Cluster:
        """A virtual cluster as users see it: it runs while one of its VMs does."""
        live = [vm.state for vm in self._book.vms(row.name) if vm.state in LIVE]
        return Cluster(
            name=row.name,
            image=row.image,
            shape=row.shape,
            state=state_of(live),
            owner=row.owner,
            memory_class=row.memory_class,
            placement=row.placement,
            requires=row.requires,
            limits=row.limits,
            vm_limits=row.vm_limits,
            networks=row.networks,
            egress=row.egress,
            vms=len(live),
            next_vmid=row.next_vmid,
            created=row.created,
        )

    def show(self, name: str) -> Cluster:
        return self.shown(self._book.cluster(name))

    def all(self) -> list[Cluster]:
        return [self.shown(row) for row in self._book.clusters()]

    async def images(self) -> list[ImageInfo]:
        """Stored images of all hosts, by name, with the virtual clusters that stand on them."""
        names = self._hosts.names()[:ASKED_FOR_IMAGES]
        found = await asyncio.gather(
            *(self._hosts.get(name).images() for name in names), return_exceptions=True
        )
        lists = [here for here in found if not isinstance(here, BaseException)]
        for failure in found:  # those of a host that does not answer are on others too
            if isinstance(failure, BaseException) and not (
                lists and isinstance(failure, CopperError)
            ):
                raise failure
        images = {image.name: image for here in reversed(lists) for image in here}
        users: dict[str, list[str]] = {}
        for row in self._book.clusters():
            users.setdefault(row.image, []).append(row.name)
        return [
            images[name].model_copy(update={"users": users.get(name, [])})
            for name in sorted(images)
        ]

    # making and forgetting

    async def create(self, owner: str, new: NewCluster) -> Cluster:
        """Raises BadInput, NotFound (image) or Conflict (the name exists)."""
        check_name(new.name, "virtual cluster")
        check_name(new.image, "image")
        egress = check_egress(new.egress, new.networks)
        for name in attached(new.networks):
            self._networks.row(name)
        image = await self._image(new.image)
        for field, wanted, has in (
            ("memory", new.memory_mib, image.memory_mib),
            ("cpus", new.cpus, image.cpus),
        ):
            if wanted is not None and wanted != has:
                raise BadInput(
                    f"{field} {wanted}: image {new.image} was booted with {has}",
                    advice=f"build an image with --{field} {wanted}",
                )
        await step("create.checked")
        row = ClusterRow(
            name=new.name,
            image=new.image,
            shape=Shape(memory_mib=image.memory_mib, cpus=image.cpus, disk_bytes=image.disk_bytes),
            created=now(),
            owner=owner,
            memory_class=new.memory_class,
            placement=new.placement,
            requires=new.requires,
            limits=new.limits,
            networks=new.networks,
            egress=egress,
        )
        key = cluster_key(new.name)
        made: dict[str, Record] = {key: row}
        if image.ssh:
            made[login_key(new.name)] = new_login_key(new.name)
        names = attached(new.networks)
        await self._book.settled(key, *(network_key(name) for name in names))
        # from here to the submission nothing else is decided
        for name in names:
            self._networks.row(name)
        try:
            await asyncio.shield(self._book.submit(expect={key: None}, put=made))
        except Changed:
            raise Conflict(f"virtual cluster {new.name!r} exists") from None
        await step("create.written")
        try:
            await self._warm(row)
        except CopperError:  # such as an image that is damaged: nothing is left
            await self._book.commit(expect={key: row}, delete=list(made))
            raise
        await step("create.warmed")
        return self.shown(row)

    async def _image(self, name: str) -> ImageInfo:
        images = {image.name: image for image in await self.images()}
        if name not in images:
            known = ", ".join(images) or "there are none; copper image build makes one"
            raise NotFound(f"there is no image {name!r}", advice=f"images: {known}")
        return images[name]

    async def _warm(self, row: ClusterRow) -> None:
        """Has the image in memory where the master would go; that it cannot go anywhere now is no error yet."""
        try:
            places, _ = self._tickets.fits.places(row, 1, 1, "")
        except NoRoom:
            return
        await self._hosts.get(next(iter(places))).warm(row.image)

    async def warm(self) -> None:
        """Has the images of all virtual clusters in memory before they are asked for."""
        for row in {row.image: row for row in self._book.clusters()}.values():
            try:
                await self._warm(row)
            except CopperError as error:
                log.warning("image %s is not ready: %s", row.image, error)

    async def delete(self, name: str) -> None:
        """Forgets a virtual cluster. Raises Conflict while it has VMs."""
        await self._book.settled(*self._exposures.keys(name))
        await self._book.cluster_settled(name)
        row = self._book.cluster(name)
        vms = self._book.vms(name)
        if any(vm.state in LIVE or vm.state == "ending" for vm in vms):
            raise Conflict(
                f"virtual cluster {name!r} has VMs", advice=f"gc-vc kill {name} ends them first"
            )
        keys = [cluster_key(name), login_key(name), *(vm_key(vm.name) for vm in vms)]
        keys += self._exposures.keys(name)
        await asyncio.shield(self._book.submit(expect={cluster_key(name): row}, delete=keys))
        await step("delete.written")

    async def delete_image(self, name: str) -> None:
        """Deletes a stored image. Raises Conflict while a virtual cluster stands on it."""
        check_name(name, "image")
        users = [row.name for row in self._book.clusters() if row.image == name]
        if users:
            raise Conflict(
                f"image {name} is in use by {', '.join(users[:5])}",
                advice=f"gc-vc delete {users[0]} lets go of it",
            )
        found = 0
        for host in self._hosts.names():
            try:
                await self._hosts.get(host).delete_image(name)
                found += 1
            except NotFound:
                continue
        if not found:
            await self._image(name)  # says that there is none, and which there are

    async def limit(self, name: str, limits: Limits | None, vm_limits: VmLimits | None) -> Cluster:
        """Sets what a virtual cluster, and each of its VMs, may have. What it has already stays.

        Raises Conflict for VMs that are suspended, and what a host says that cannot hold VMs to it; nothing is
        changed then.
        """
        await self._book.settled(cluster_key(name))
        row = self._book.cluster(name)
        changes: dict[str, object] = {}
        running: list[Vm] = []
        if limits is not None:
            changes["limits"] = limits
        if vm_limits is not None:
            if any(vm.state == "suspended" for vm in self._book.vms(name)):
                raise Conflict(
                    f"the VMs of virtual cluster {name!r} are suspended, with the limits they had",
                    advice=f"gc-vc resume {name}, then limit them",
                )
            changes["vm_limits"] = vm_limits
            running = [vm for vm in self._book.vms(name) if vm.state in ("running", "paused")]
            try:
                await self.hold(running, vm_limits)
            except BaseException:
                await undo(self.hold(running, row.vm_limits))
                raise
        key = cluster_key(name)
        await self._book.settled(key)
        row = self._book.cluster(name)
        await self._book.commit(expect={key: row}, put={key: row.model_copy(update=changes)})
        if vm_limits is not None:  # clones that came meanwhile
            told = {vm.name for vm in running}
            await self.hold([vm for vm in self._book.vms(name) if vm.name not in told], vm_limits)
        return self.show(name)

    async def hold(self, vms: Sequence[Vm], limits: VmLimits) -> None:
        """Has hosts hold those of these VMs that run to limits."""
        for vm in vms:
            if vm.state in ("running", "paused"):
                await self._hosts.get(vm.host).limit(vm.name, limits)

    # booting and ending

    async def boot(self, name: str, progress: Progress = no_progress) -> Vm:
        """Starts the master from the image's template. Raises Conflict when the cluster has VMs, NoRoom."""
        row = self._book.cluster(name)
        await self.look_again(row, 1, "")
        await self._book.cluster_settled(name)
        row = self._book.cluster(name)
        old = self._book.vms(name)
        if any(vm.state in LIVE or vm.state == "ending" for vm in old):
            raise Conflict(
                f"virtual cluster {name!r} runs already", advice=f"gc-vc kill {name} ends it"
            )
        places, reserved = self._tickets.fits.places(row, 1, 1, "")
        master = self.new_vm(row, 0, 0, None, next(iter(places)), reserved)
        own = self._tickets.new(master, places, row.shape.cpus, reserved, "used")
        (master,), leases = self._leases.give(row, [master.model_copy(update={"ticket": own.id})])
        booted = row.model_copy(update={"next_vmid": 1, "next_generation": 1})
        put = {
            cluster_key(name): booted,
            vm_key(master.name): master,
            ticket_key(own.id): own,
            **leases,
        }
        written = self._book.submit(
            expect={cluster_key(name): row, **dict.fromkeys(leases)},
            put=put,
            delete=[vm_key(vm.name) for vm in old],
        )
        try:
            await asyncio.shield(written)
            await step("boot.planned")
            progress(0, 1)
            order = self.order(row, master, [], row.image)
            status = await self._hosts.get(master.host).thaw(order)
            await step("boot.thawed")
            vm = (await self.running([master], [status]))[0]
            await self._exposures.follow([vm], {vm.name: order.exposure})
        except BaseException:
            await asyncio.shield(self._undo_boot(written, master))
            raise
        await step("boot.written")
        progress(1, 1)
        return vm

    async def _undo_boot(self, written: asyncio.Task[int], master: Vm) -> None:
        failed = (await asyncio.gather(written, return_exceptions=True))[0]
        if not isinstance(failed, BaseException):
            await self._endings.undo([master])

    async def look_again(self, row: ClusterRow, least: int, near: str) -> None:
        """Where there seems to be no room, hosts are measured anew: what ended lately has given its memory back."""
        try:
            self._tickets.fits.places(row, least, least, near)
        except NoRoom:
            await self._hosts.refresh(*({near, *self._hosts.capacity.gave_back()} if near else ()))

    def new_vm(
        self,
        row: ClusterRow,
        vmid: int,
        generation: int,
        parent: int | None,
        host: str,
        reserved: int,
    ) -> Vm:
        return Vm(
            name=vm_name(row.name, vmid),
            cluster=row.name,
            vmid=vmid,
            ip=ipv4_of(vmid),
            ip6=ipv6_of(vmid),
            generation=generation,
            parent=parent,
            state="starting",
            host=host,
            created=now(),
            owner=row.owner,
            cpus=row.shape.cpus,
            memory_mib=row.shape.memory_mib,
            reserved_bytes=reserved,
        )

    def order(self, row: ClusterRow, vm: Vm, vmids: Sequence[int], template: str = "") -> ThawOrder:
        """What a host is told to make of a VM's row."""
        identity = Identity(
            cluster=vm.cluster,
            vmid=vm.vmid,
            name=vm.name,
            ip=vm.ip,
            parent=vm.parent,
            generation=vm.generation,
            ticket=vm.ticket,
            vmids=list(vmids),
        )
        return ThawOrder(
            identity=identity,
            template=template or None,
            reserved_bytes=vm.reserved_bytes,
            limits=row.vm_limits,
            exposure=self._exposures.ordered(vm),
            # a clone's guest has it from the one that booted
            login_key=self._book.find(login_key(vm.cluster), LoginKey) if template else None,
        )

    async def running(self, vms: Sequence[Vm], found: Sequence[VmStatus]) -> list[Vm]:
        """Writes down that these VMs run, as hosts found them. Raises Conflict when one has been ended meanwhile."""
        done = [
            vm.model_copy(update={"state": "running", "ssh_host_key": status.ssh_host_key})
            for vm, status in zip(vms, found, strict=True)
        ]
        try:
            await self._book.commit(
                expect={vm_key(vm.name): vm for vm in vms}, put={vm_key(vm.name): vm for vm in done}
            )
        except Changed:
            raise Conflict(f"a VM of {vms[0].cluster} was ended before it ran") from None
        return done
