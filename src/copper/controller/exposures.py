"""How the world reaches VMs, and what of it they reach: addresses, forwards and egress, told to their hosts."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Mapping, Sequence

from copper.controller.book import Book
from copper.controller.hosts import Hosts
from copper.controller.leases import Leases
from copper.controller.networks import NONE, OPEN, check_egress
from copper.controller.rows import ClusterRow, cluster_key, forward_key, vm_key
from copper.model.api import Vm
from copper.model.errors import Conflict, CopperError, NotFound, Refused
from copper.model.machine import Record
from copper.model.networks import EVERYWHERE, Exposure, Forward, NewForward
from copper.wire.steps import step

log = logging.getLogger(__name__)


class Exposures:
    """What each VM's host is to see to, by what is written down."""

    def __init__(self, book: Book, hosts: Hosts, leases: Leases) -> None:
        self._book = book
        self._hosts = hosts
        self._leases = leases
        self._forwards: dict[str, dict[str, Forward]] = {}  # by virtual cluster and key
        self.missed: set[str] = set()  # VMs whose host was told and has not said that it did it
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        book.on_change(self._seen)

    def _seen(self, key: str, before: Record | None, after: Record | None) -> None:
        if isinstance(before, Forward):
            del self._forwards[before.cluster][key]
        if isinstance(after, Forward):
            self._forwards.setdefault(after.cluster, {})[key] = after
        if isinstance(before, Vm) and (not isinstance(after, Vm) or after.state == "dead"):
            self.missed.discard(before.name)

    def of(self, vm: Vm) -> Exposure:
        """A VM's, as it should be."""
        row = self._book.find(cluster_key(vm.cluster), ClusterRow)
        egress = row.egress if row is not None else NONE
        ways = {OPEN: list(EVERYWHERE), NONE: []}
        return Exposure(
            vm=vm.name,
            cluster=vm.cluster,
            private=vm.ip,
            addresses=self._leases.addresses(vm),
            egress=ways.get(egress, egress.split(",")),
            forwards=[one for one in self.forwards(vm.cluster) if one.vmid == vm.vmid],
        )

    def ordered(self, vm: Vm) -> Exposure | None:
        """As an order has it: None where nothing is to be seen to."""
        row = self._book.find(cluster_key(vm.cluster), ClusterRow)
        private = row is None or row.egress == NONE
        if private and not vm.public and not self._forwards.get(vm.cluster):
            return None  # as most are, and forks have many
        exposure = self.of(vm)
        return None if exposure.is_private else exposure

    async def tell(self, vm: Vm) -> None:
        """Has a VM's host see to it from now on. Raises CopperError: it is told again when it reports."""
        turn = self._turns.setdefault(vm.name, asyncio.Lock())
        async with turn:  # what is decided last is told last
            self.missed.add(vm.name)
            await self._hosts.get(vm.host).expose(vm.name, self.of(vm))
            self.missed.discard(vm.name)

    async def follow(self, vms: Sequence[Vm], ordered: Mapping[str, Exposure | None]) -> None:
        """Tells the hosts of those for which something else was decided since they were ordered."""
        for vm in vms:
            if vm.name in ordered and self.ordered(vm) != ordered[vm.name]:
                await self.tell(vm)

    # the way out

    async def let_out(self, cluster: str, egress: str) -> None:
        """Has all VMs of a virtual cluster, those to come too, reach this of the world and no more.

        Raises BadInput, and Refused with what a host says that cannot do it: nothing is changed then. One that does
        not answer is told when it does.
        """
        now = check_egress(egress, ())
        before = await self._write_egress(cluster, now)
        await step("egress.written")
        try:
            await self._tell_all(cluster)
        except BaseException:
            await asyncio.shield(self._let_out_again(cluster, now, before))
            raise
        await step("egress.told")

    async def _write_egress(self, cluster: str, egress: str) -> str:
        """What it was."""
        key = cluster_key(cluster)
        await self._book.settled(key)
        row = self._book.cluster(cluster)
        if row.egress != egress:
            now = row.model_copy(update={"egress": egress})
            await asyncio.shield(self._book.submit(expect={key: row}, put={key: now}))
        return row.egress

    async def _let_out_again(self, cluster: str, now: str, before: str) -> None:
        if self._book.cluster(cluster).egress != now:
            return  # somebody decided something else meanwhile
        await self._write_egress(cluster, before)
        try:
            await self._tell_all(cluster)
        except CopperError as error:
            log.warning("VMs of %s may still go out as was refused: %s", cluster, error)

    async def _tell_all(self, cluster: str) -> None:
        """Raises Refused after all were told."""
        vms = [vm for vm in self._book.vms(cluster) if vm.state in ("running", "paused")]
        said = await asyncio.gather(*map(self.tell, vms), return_exceptions=True)
        for vm, failure in zip(vms, said, strict=True):
            if isinstance(failure, Refused) or not isinstance(failure, CopperError | None):
                raise failure
            if failure is not None:
                log.warning("VM %s: its host is not told yet: %s", vm.name, failure)

    # port forwards

    def forwards(self, cluster: str) -> list[Forward]:
        """Those of a virtual cluster, by port."""
        found = self._forwards.get(cluster, {})
        return sorted(found.values(), key=lambda one: (one.host_port, one.protocol))

    def keys(self, cluster: str) -> list[str]:
        """Those of their rows."""
        return list(self._forwards.get(cluster, {}))

    async def forward(self, cluster: str, new: NewForward) -> Forward:
        """Has a port of the hosts lead to a VM, now and whenever it runs. Raises Conflict (it leads elsewhere).

        What the VM's host says that cannot do it is raised, and nothing is changed.
        """
        key = forward_key(new.protocol, new.host_port)
        made = Forward(cluster=cluster, **dict(new))
        await self._book.settled(key, cluster_key(cluster))
        row = self._book.cluster(cluster)
        there = self._book.find(key, Forward)
        if there is not None:
            # whose it is may be nobody's business
            whose = f"VM {there.vmid} of it" if there.cluster == cluster else "another's"
            raise Conflict(f"{new.protocol} port {new.host_port} of the hosts is {whose}")
        await asyncio.shield(
            self._book.submit(expect={key: None, cluster_key(cluster): row}, put={key: made})
        )
        await step("forward.written")
        try:
            await self._tell_vmid(cluster, new.vmid)
        except BaseException:
            await asyncio.shield(self._take_back(key, made))
            raise
        await step("forward.told")
        return made

    async def _take_back(self, key: str, made: Forward) -> None:
        await self._book.settled(key)
        if self._book.find(key, Forward) == made:
            await self._book.commit(delete=[key])
            try:
                await self._tell_vmid(made.cluster, made.vmid)
            except CopperError as error:  # it is told again when it is compared
                log.warning("port %d may still lead to %s: %s", made.host_port, made.cluster, error)

    async def unforward(self, cluster: str, protocol: str, host_port: int) -> None:
        """Raises NotFound, and what the VM's host says that does not do it: it is told again when it is compared."""
        key = forward_key(protocol, host_port)
        await self._book.settled(key)
        there = self._book.find(key, Forward)
        if there is None or there.cluster != cluster:
            raise NotFound(
                f"{protocol} port {host_port} does not lead to virtual cluster {cluster!r}",
                advice=f"gc-vc forward {cluster} lists those that do",
            )
        await self._book.commit(delete=[key])
        await step("forward.deleted")
        await self._tell_vmid(cluster, there.vmid)

    async def _tell_vmid(self, cluster: str, vmid: int) -> None:
        for vm in self._book.vms(cluster):
            if vm.vmid == vmid and vm.state in ("running", "paused"):
                await self.tell(vm)

    # what a host has

    async def compare(self, vm: Vm, there: Exposure | None) -> None:
        """Tells a VM's host once more where it has something else; one that fails is told again later."""
        if self._book.find(vm_key(vm.name), Vm) != vm:
            return
        if there == self.ordered(vm):
            self.missed.discard(vm.name)
            return
        log.warning("VM %s: its host is told again how the world reaches it", vm.name)
        try:
            await self.tell(vm)
        except CopperError as error:  # it holds up none of the others
            log.warning("VM %s: its host does not do it: %s", vm.name, error)
