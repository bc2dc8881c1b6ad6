"""What hosts report of VMs, accounts of it over a store that outlives their controller, and who asks for them."""

from __future__ import annotations

import dataclasses

import pytest

from copper.controller.accounts import Accounts
from copper.controller.book import Book
from copper.controller.rows import ClusterRow, cluster_key, vm_key
from copper.model.api import HostFacts, HostReport, Vm, VmState, VmUse
from copper.model.machine import Shape
from copper.model.usage import Usage
from copper.model.users import Principal, Role
from copper.store.memory import MemoryStore
from copper.wire.app import App, Receive, Scope, Send

NOW = 1_800_000_000.0  # begins an hour
MIB = 1 << 20


def facts(name: str = "a") -> HostFacts:
    return HostFacts(
        name=name,
        cpus=4,
        memory_bytes=1 << 34,
        free_bytes=1 << 33,
        disk_bytes=1 << 40,
        disk_free_bytes=1 << 39,
        accelerator="tcg",
        accelerator_reason="",
        qemu="9",
        machine="q35",
        vms=0,
        standbys=0,
    )


def use(name: str = "demo-0", process: str = "p", cpu_s: float = 0.0, disk: int = 0) -> VmUse:
    return VmUse(
        name=name,
        cluster=name.rpartition("-")[0],
        nominal_bytes=256 * MIB,
        shared_bytes=100 * MIB,
        own_bytes=10 * MIB,
        cpu_s=cpu_s,
        disk_written_bytes=disk,
        process=process,
    )


def report(*vms: VmUse, ended: tuple[VmUse, ...] = (), host: str = "a") -> HostReport:
    return HostReport(facts=facts(host), vms=list(vms), ended=list(ended))


def cluster(name: str, owner: str = "ann") -> ClusterRow:
    shape = Shape(memory_mib=256, cpus=1, disk_bytes=1 << 30)
    return ClusterRow(name=name, image="micro", shape=shape, created=0, owner=owner)


def vm(name: str, owner: str = "ann", state: VmState = "running", host: str = "a") -> Vm:
    return Vm(
        name=name,
        cluster=name.rpartition("-")[0],
        vmid=int(name.rpartition("-")[2]),
        ip="10.0.0.1",
        generation=0,
        parent=None,
        state=state,
        host=host,
        created=0,
        owner=owner,
        reserved_bytes=20 * MIB,
    )


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@dataclasses.dataclass
class Place:
    """A store, and the controller over it, which can be started again."""

    store: MemoryStore
    clock: Clock
    book: Book
    accounts: Accounts

    async def put(self, *rows: ClusterRow | Vm) -> None:
        for row in rows:
            key = cluster_key(row.name) if isinstance(row, ClusterRow) else vm_key(row.name)
            await self.book.commit(put={key: row})

    async def crash(self) -> None:
        self.book = Book(self.store)
        await self.book.open()
        self.accounts = Accounts(self.book, 2.0, self.clock)

    def one(self) -> Usage:
        (found,) = self.accounts.usage()
        return found


async def new_place() -> Place:
    store, clock = MemoryStore(), Clock()
    book = Book(store)
    await book.open()
    place = Place(store, clock, book, Accounts(book, 2.0, clock))
    await place.put(cluster("demo"), vm("demo-0"))
    return place


@pytest.fixture
async def place() -> Place:
    return await new_place()


def asked_by(app: App, user: str, role: Role) -> App:
    """The application as this user's requests find it."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        scope["copper.principal"] = Principal(name=user, role=role)
        await app(scope, receive, send)

    return serve
