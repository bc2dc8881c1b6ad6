"""The front of the controller over a small core: all that the API needs, without hosts."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import httpx2
from fastapi import FastAPI

from copper.controller.access import Access, asking
from copper.controller.accounts import Accounts
from copper.controller.accounts_api import routes as usage_routes
from copper.controller.api import Front, install
from copper.controller.api.core import Progress
from copper.controller.book import Book, now
from copper.controller.capacity import Capacity
from copper.controller.exposures import Exposures
from copper.controller.hosts import Hosts
from copper.controller.leases import Leases
from copper.controller.logins import Logins
from copper.controller.networks import Networks
from copper.controller.rows import ClusterRow, cluster_key, ticket_key, vm_key
from copper.model.api import (
    Cluster,
    GuestCall,
    Health,
    HostFacts,
    ImageInfo,
    Limits,
    NewCluster,
    Vm,
    VmEnded,
    VmLimits,
)
from copper.model.audit import Difference
from copper.model.errors import Conflict, NotFound
from copper.model.machine import Shape
from copper.model.names import check_name
from copper.model.tickets import Ticket, TicketRequest
from copper.model.users import NewToken, NewUser
from copper.store.contract import Changed, Store
from copper.store.memory import MemoryStore
from copper.wire.app import new_app

SHAPE = Shape(memory_mib=256, cpus=1, disk_bytes=1 << 28)
HEALTH = Health(
    version="0", pid=1, host="here", accelerator="tcg", accelerator_reason="", state_dir="state"
)


def vm_of(cluster: str, vmid: int, owner: str = "root", **more: Any) -> Vm:
    return Vm(
        **{
            "name": f"{cluster}-{vmid}",
            "cluster": cluster,
            "vmid": vmid,
            "ip": "10.0.0.1",
            "generation": 0,
            "parent": None,
            "state": "running",
            "host": "here",
            "created": 1.0,
            "owner": owner,
            **more,
        }
    )


class FakeCore:
    """Decides nothing, writes it down. `hold` keeps what takes long from ending; `broken` breaks it."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.hold: asyncio.Event | None = None
        self.held = asyncio.Event()  # what takes long is under way
        self.broken: BaseException | None = None
        self.undone: list[str] = []
        self.calls = self
        hosts, leases = Hosts(Capacity()), Leases(book)
        self.networks = Networks(book, hosts, leases)
        self.exposures = Exposures(book, hosts, leases)
        self.logins = Logins(book)

    async def answer(self, call: GuestCall) -> dict[str, Any]:
        return {"vm": self.book.vm(call.vm).name}

    def cluster(self, name: str) -> Cluster:
        row = self.book.cluster(name)
        vms = len(self.book.vms(name))
        shown = {key: value for key, value in row if key in Cluster.model_fields}
        return Cluster(**shown, state="running" if vms else "defined", vms=vms)

    async def _work(self, what: str, progress: Progress, parts: int = 4) -> None:
        if self.broken is not None:
            raise self.broken
        try:
            for part in range(parts):
                progress(part, parts)
                await asyncio.sleep(0)
            if self.hold is not None:
                self.held.set()
                await self.hold.wait()
            progress(parts, parts)
        except asyncio.CancelledError:
            self.undone.append(what)
            raise

    async def create(self, owner: str, new: NewCluster) -> Cluster:
        check_name(new.name, "virtual cluster")
        if new.image == "none":
            raise NotFound("there is no image 'none'")
        row = ClusterRow(
            name=new.name,
            image=new.image,
            shape=SHAPE,
            created=now(),
            owner=owner,
            limits=new.limits,
        )
        key = cluster_key(new.name)
        try:
            await self.book.commit(expect={key: None}, put={key: row})
        except Changed:
            raise Conflict(f"virtual cluster {new.name!r} exists") from None
        return self.cluster(new.name)

    async def boot(self, name: str, progress: Progress) -> Vm:
        row = self.book.cluster(name)
        if self.book.vms(name):
            raise Conflict(f"virtual cluster {name!r} runs already")
        await self._work(f"boot {name}", progress)
        vm = vm_of(name, 0, row.owner)
        await self.book.commit(put={vm_key(vm.name): vm})
        return vm

    async def kill(self, name: str, progress: Progress) -> list[str]:
        await self._work(f"kill {name}", progress)
        names = [vm.name for vm in self.book.vms(name)]
        await self.end(names)
        return names

    async def delete(self, name: str, progress: Progress) -> None:
        if self.book.vms(name):
            raise Conflict(f"virtual cluster {name!r} has VMs")
        await self.book.commit(delete=[cluster_key(name)])

    async def pause(self, name: str, progress: Progress) -> list[str]:
        await self._work(f"pause {name}", progress)
        return [vm.name for vm in self.book.vms(name)]

    unpause = suspend = resume = pause

    async def limit(self, name: str, limits: Limits | None, vm_limits: VmLimits | None) -> Cluster:
        row = self.book.cluster(name)
        change = {"limits": limits} if limits is not None else {}
        await self.book.commit(put={cluster_key(name): row.model_copy(update=change)})
        return self.cluster(name)

    async def clone(
        self,
        vm: str,
        count: int | None = None,
        ticket: str | None = None,
        call: int | None = None,
        progress: Progress = lambda done, parts: None,
    ) -> list[Vm]:
        parent = self.book.vm(vm)
        await self._work(f"clone {vm}", progress)
        first = max(one.vmid for one in self.book.vms(parent.cluster)) + 1
        clones = [
            vm_of(parent.cluster, first + number, parent.owner) for number in range(count or 1)
        ]
        await self.book.commit(put={vm_key(one.name): one for one in clones})
        return clones

    async def end(self, vms: list[str]) -> None:
        await self.book.commit(delete=[vm_key(name) for name in vms])

    async def ended(self, ended: VmEnded) -> None:
        pass

    async def request_ticket(self, vm: str, request: TicketRequest) -> Ticket:
        holder = self.book.vm(vm)
        ticket = Ticket(
            id=str(uuid4()),
            cluster=holder.cluster,
            owner=holder.owner,
            holder=holder.vmid,
            cpus=1,
            vms=1,
            mincpuspervm=1,
            status="granted",
        )
        await self.book.commit(put={ticket_key(ticket.id): ticket})
        return ticket

    async def release_ticket(self, ticket: str) -> None:
        await self.book.commit(delete=[ticket_key(ticket)])

    def host_facts(self) -> list[HostFacts]:
        known: dict[str, Any] = {"accelerator": "tcg", "accelerator_reason": "", "qemu": "7"}
        sizes = ("memory_bytes", "free_bytes", "disk_bytes", "disk_free_bytes", "vms", "standbys")
        known |= {"machine": "q35", "cpus": 2, **dict.fromkeys(sizes, 0)}
        return [HostFacts(name=name, tags=[f"of-{name}"], **known) for name in ("there", "here")]

    async def images(self) -> list[ImageInfo]:
        users = [row.name for row in self.book.clusters()]
        sizes = ("created", "memory_mib", "cpus", "disk_bytes", "stored_bytes")
        known: dict[str, Any] = {"recipe": "", "accelerator": "", **dict.fromkeys(sizes, 1)}
        return [ImageInfo(name="micro", users=users, **known)]

    async def delete_image(self, name: str) -> None:
        raise NotFound(f"there is no image {name!r}")


@dataclasses.dataclass
class Served:
    """An API that is served in this process, and how to ask it as whom."""

    front: Front
    app: FastAPI
    core: FakeCore
    access: Access
    book: Book
    clients: list[httpx2.AsyncClient]

    def client(self, secret: str | None = None, app: Any = None) -> httpx2.AsyncClient:
        """As whose token it is; as nobody without."""
        headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
        transport = httpx2.ASGITransport(
            app=app or self.access.guarded(self.app), raise_app_exceptions=False
        )
        client = httpx2.AsyncClient(transport=transport, base_url="http://copper", headers=headers)
        self.clients.append(client)
        return client

    @property
    def root(self) -> httpx2.AsyncClient:
        """As one who speaks through the Unix socket."""
        return self.client(app=self.access.trusted(self.app))

    @property
    def host(self) -> httpx2.AsyncClient:
        return self.client(self.access.own_headers["authorization"].removeprefix("Bearer "))

    async def secret(self, name: str, role: Any = "user") -> str:
        """The secret of a new token of a user, who is made where there is none."""
        if name not in {user.name for user in self.front.users.all()}:
            await self.front.users.create(NewUser(name=name, role=role))
        return (await self.front.users.issue(name, NewToken())).secret

    async def user(self, name: str, role: Any = "user") -> httpx2.AsyncClient:
        return self.client(await self.secret(name, role))


async def _audit(repair: bool) -> list[Difference]:
    return [Difference(thing="vm", name="a-0", says="it is not there", mended=repair)]


@contextlib.asynccontextmanager
async def serving(
    store: Store | None = None, prepare: Callable[[Book], Any] | None = None
) -> AsyncIterator[Served]:
    """The API over a store, which is left as it is at the end."""
    book = Book(store or MemoryStore())
    await book.open()
    if prepare is not None:
        await prepare(book)
    access = Access(book)
    core = FakeCore(book)
    app = new_app("Copper", "0")
    front = Front(book, core, _audit, access, lambda: HEALTH)
    install(app, front, usage_routes(Accounts(book), book, asking))
    served = Served(front, app, core, access, book, [])
    try:
        async with front.working():
            yield served
    finally:
        for client in served.clients:
            await client.aclose()
