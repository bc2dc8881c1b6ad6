"""A controller among a thousand hosts and a hundred thousand VMs, all in one process."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from copper.bench.apart import high_water_mb
from copper.bench.simulated import IMAGE, FetchingHost, some_hosts
from copper.controller.access import Access
from copper.controller.api import Front, install
from copper.controller.book import Book
from copper.controller.core import Core
from copper.garbage import look_at_what_is_new
from copper.model.api import Health, NewCluster, Strategy, ThawOrder
from copper.model.errors import CopperError
from copper.model.machine import Identity
from copper.model.names import vm_name
from copper.model.tickets import TicketRequest
from copper.net.addresses import ipv4_of
from copper.store.sqlite import SqliteStore
from copper.wire.app import new_app

ASKED = 8  # clones of a placement decision
PAGE, MOST = 100, 10_000  # VMs on a page


def cluster_name(number: int) -> str:
    return f"vc{number:04d}"


def fill(order: dict[str, Any]) -> dict[str, Any]:
    """order: path, hosts, clusters, each, times. → samples by what they are of; the store stays in `path`."""
    look_at_what_is_new()  # as a node does
    return asyncio.run(_fill(order))


async def _fill(order: dict[str, Any]) -> dict[str, Any]:
    store = SqliteStore(Path(order["path"]))
    await store.open()
    say("filling")
    hosts = some_hosts(order["hosts"])
    core = a_core(store, hosts)
    found: dict[str, Any] = {"fork_s": []}
    try:
        async with core.working():
            for number in range(order["clusters"]):
                name = cluster_name(number)
                placement: Strategy = "near" if number % 4 else "spread"
                await core.create("root", NewCluster(name=name, image=IMAGE, placement=placement))
                master = await core.boot(name)
                begin = time.perf_counter()
                await core.clone(master.name, order["each"] - 1)
                found["fork_s"].append(time.perf_counter() - begin)
            await core.hosts.refresh()
            vms = len(core.book.vms())
            if vms != order["clusters"] * order["each"]:
                raise CopperError(f"there are {vms} VMs")
            say(f"{vms} VMs run")
            found["decision_ms"] = _decisions(core, order)
            say("decisions are measured")
            found["granted_ms"] = await _tickets(core, order)
            say("tickets are measured")
            found["listing_ms"] = await _listings(core, order, MOST)
            found["page_ms"] = await _listings(core, order, PAGE)
            say("listings are measured")
            found["memory_mb"] = high_water_mb()
        again = a_core(store, hosts)
        begin = time.perf_counter()
        async with again.working():
            found["start_s"] = time.perf_counter() - begin
            if len(again.book.vms()) != vms:
                raise CopperError(f"{len(again.book.vms())} VMs of {vms} are there after a start")
    finally:
        await store.close()
    return found


def say(what: str) -> None:
    """To the run's log: how far it is."""
    print(f"{time.strftime('%X')} {what}", file=sys.stderr, flush=True)


def a_core(store: SqliteStore, hosts: list[FetchingHost]) -> Core:
    """A controller with these hosts."""
    core = Core(store)
    for host in hosts:
        core.hosts.add(host.name, host)
    return core


def _decisions(core: Core, order: dict[str, Any]) -> list[float]:
    """Where clones would go, without promising them anything: pure, in milliseconds."""
    taken = []
    for number in range(order["times"]):
        row = core.book.cluster(cluster_name(number % order["clusters"]))
        hosts = core.hosts.names()
        near = hosts[number % len(hosts)]
        begin = time.perf_counter()
        places, _ = core.tickets.fits.places(row, ASKED, ASKED, near)
        taken.append((time.perf_counter() - begin) * 1000)
        if sum(places.values()) != ASKED:
            raise CopperError(f"placed on {places}")
    return taken


async def _tickets(core: Core, order: dict[str, Any]) -> list[float]:
    """Tickets as they are asked for, while reports come in, in milliseconds."""
    taken = []
    for number in range(order["times"]):
        vm = vm_name(cluster_name(number % order["clusters"]), number % order["each"])
        begin = time.perf_counter()
        ticket = await core.request_ticket(vm, TicketRequest(maxcpus=ASKED))
        taken.append((time.perf_counter() - begin) * 1000)
        await core.release_ticket(ticket.id)
        # so that reports fall between tickets as they do in a life
        await asyncio.sleep(order["pause_s"])
    return taken


async def _listings(core: Core, order: dict[str, Any], limit: int) -> list[float]:
    """A virtual cluster's VMs by the API's own route, in milliseconds."""

    def health() -> Health:
        raise NotImplementedError

    access = Access(core.book)
    app = new_app("bench", "0")
    install(app, Front(core.book, core, core.audit, access, health))
    served = access.trusted(app)
    taken = []
    for number in range(order["times"]):
        name = cluster_name(number % order["clusters"])
        begin = time.perf_counter()
        body = await _get(served, "/v1/vms", f"cluster={name}&limit={limit}")
        taken.append((time.perf_counter() - begin) * 1000)
        listed = {vm["name"] for vm in json.loads(body)}
        if len(listed) != min(limit, order["each"]):
            raise CopperError(f"{len(listed)} VMs of {name} are listed")
        await asyncio.sleep(order["pause_s"])
    return taken


async def _get(app: Any, path: str, query: str) -> bytes:
    """Asks an ASGI application; returns its answer's body."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"copper")],
        "client": None,
        "server": ("copper", None),
    }
    body = bytearray()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            raise CopperError(f"GET {path}?{query}: {message['status']}")
        body.extend(message.get("body", b""))

    await app(scope, receive, send)
    return bytes(body)


def open_book(order: dict[str, Any]) -> dict[str, Any]:
    """order: path. Opens a book and does no more. → open_s, memory_mb, vms."""

    async def opened() -> dict[str, Any]:
        begin = time.perf_counter()
        store = SqliteStore(Path(order["path"]))
        await store.open()
        book = Book(store)
        await book.open()
        open_s = time.perf_counter() - begin
        await store.close()
        return {"open_s": open_s, "memory_mb": high_water_mb(), "vms": len(book.vms())}

    look_at_what_is_new()  # as a node does
    return asyncio.run(opened())


def hosts_alone(order: dict[str, Any]) -> dict[str, Any]:
    """order: hosts, clusters, each. The same hosts and VMs without a controller. → memory_mb."""

    async def filled() -> dict[str, Any]:
        hosts = some_hosts(order["hosts"])
        for number in range(order["clusters"] * order["each"]):
            cluster, vmid = cluster_name(number // order["each"]), number % order["each"]
            identity = Identity(
                cluster=cluster,
                vmid=vmid,
                name=vm_name(cluster, vmid),
                ip=ipv4_of(vmid),
                parent=0 if vmid else None,
                generation=min(vmid, 1),
                ticket="00000000-0000-0000-0000-000000000000",
                vmids=[],
            )
            host = hosts[number % len(hosts)]
            await host.thaw(ThawOrder(identity=identity, template=IMAGE))
        for host in hosts:
            await host.report()
        return {"memory_mb": high_water_mb()}

    look_at_what_is_new()  # as a node does
    return asyncio.run(filled())
