"""What the controller remembers of virtual clusters and VMs, as records in the store."""

from __future__ import annotations

import time
from typing import Literal

from copper.model.api import Cluster, Vm
from copper.model.errors import NotFound
from copper.model.machine import Record, Shape
from copper.store.contract import Entry, Store

CLUSTERS = "clusters/"
VMS = "vms/"
TICKETS = "tickets/"
LIVE = ("starting", "running", "paused")


class ClusterDoc(Record):
    """A virtual cluster as it is written down. No vmid and no generation is used twice."""

    name: str
    image: str
    shape: Shape
    created: float
    next_vmid: int = 0
    next_generation: int = 0


class Ticket(Record):
    """A reservation of room for clones. Its own VM's, of a master, is used from the start."""

    id: str
    cluster: str
    holder: int  # the vmid that asked for it
    cpus: int
    vms: int
    mincpuspervm: int
    status: Literal["granted", "used"]
    expires: float | None  # seconds since 1970; a used one does not


def ticket_key(ticket: str) -> str:
    return TICKETS + ticket


def cluster_key(name: str) -> str:
    return CLUSTERS + name


def vm_key(name: str) -> str:
    return VMS + name


class State:
    """Typed reading of the store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def cluster(self, name: str) -> tuple[ClusterDoc, int]:
        """A virtual cluster and its revision. Raises NotFound."""
        entry = await self.store.get(cluster_key(name))
        if entry is None:
            raise NotFound(f"there is no virtual cluster {name!r}", advice="gc-vc list shows all")
        return ClusterDoc.model_validate(entry.value), entry.revision

    async def clusters(self) -> list[ClusterDoc]:
        return [ClusterDoc.model_validate(entry.value) for entry in await self.store.list(CLUSTERS)]

    async def vm(self, name: str) -> Vm:
        """Raises NotFound."""
        entry = await self.store.get(vm_key(name))
        if entry is None:
            raise NotFound(f"there is no VM {name!r}", advice="gc-vm list shows all")
        return _vm(entry)

    async def vms(self, cluster: str | None = None) -> list[Vm]:
        """VMs of one virtual cluster, or of all, by cluster and vmid."""
        prefix = VMS if cluster is None else f"{VMS}{cluster}-"
        found = [_vm(entry) for entry in await self.store.list(prefix)]
        if cluster is not None:  # another's name may begin with this one's
            found = [vm for vm in found if vm.cluster == cluster]
        return sorted(found, key=lambda vm: (vm.cluster, vm.vmid))

    async def ticket(self, ticket: str) -> tuple[Ticket, int]:
        """A ticket and its revision. Raises NotFound."""
        entry = await self.store.get(ticket_key(ticket))
        if entry is None:
            raise NotFound(f"there is no ticket {ticket!r:.60}")
        return Ticket.model_validate(entry.value), entry.revision

    async def tickets(self) -> list[Ticket]:
        return [Ticket.model_validate(entry.value) for entry in await self.store.list(TICKETS)]


def _vm(entry: Entry) -> Vm:
    return Vm.model_validate(entry.value)


def shown(doc: ClusterDoc, vms: list[Vm]) -> Cluster:
    """A virtual cluster as users see it: it runs while one of its VMs does."""
    live = sum(vm.state in LIVE for vm in vms if vm.cluster == doc.name)
    return Cluster(
        name=doc.name,
        image=doc.image,
        shape=doc.shape,
        state="running" if live else "defined",
        vms=live,
        next_vmid=doc.next_vmid,
        created=doc.created,
    )


def now() -> float:
    return time.time()
