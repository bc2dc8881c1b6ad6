"""Many clients of a node's API in one process: connections that stay, and as little work as can be for each request.

`open_loop` asks at moments that were fixed before, whatever the answers take; `closed_loop` asks again as soon as it
was answered. Both request tickets of one VM and release them.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any

from copper.model.errors import CopperError

DEADLINE_S = 30.0


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection over a Unix socket, one request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found or self._answer is None:
            return
        lines = head.lower().split(b"\r\n")
        lengths = [line[15:] for line in lines if line.startswith(b"content-length:")]
        length = int(lengths[0]) if lengths else 0  # of a 204 there is none
        if len(rest) >= length:
            self._received.clear()
            answer, self._answer = self._answer, None
            answer.set_result((int(head[9:12]), bytes(rest)))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(CopperError(f"the node has hung up: {error}"))

    async def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The answer's body. Raises CopperError when it is no success."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        waiting = self._answer
        head = f"{method} {path} HTTP/1.1\r\nHost: copper\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._transport.write(head.encode() + b"\r\n" + body)
        status, text = await waiting
        if status >= 300:
            raise CopperError(f"{method} {path}: {status} {text[:200].decode(errors='replace')}")
        return text

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Client:
    """One client, with its connection and what it asks for."""

    def __init__(self, connection: Connection, vm: str, request: dict[str, int]) -> None:
        self._connection = connection
        self._path = f"/v1/vms/{vm}/tickets"
        self._body = json.dumps(request).encode()

    @classmethod
    async def connect(cls, order: dict[str, Any]) -> Client:
        """To order["socket"], for tickets of order["vm"]."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_unix_connection(Connection, order["socket"])
        return cls(connection, order["vm"], order["request"])

    async def request(self) -> str:
        """A ticket's id."""
        return str(json.loads(await self._connection.ask("POST", self._path, self._body))["id"])

    async def release(self, ticket: str) -> None:
        await self._connection.ask("DELETE", f"/v1/tickets/{ticket}")

    def close(self) -> None:
        self._connection.close()


def open_loop(order: dict[str, Any]) -> dict[str, Any]:
    """order: socket, vm, request, clients, per_second, seconds, seed. → granted_ms, released_ms."""
    return asyncio.run(_open_loop(order))


async def _open_loop(order: dict[str, Any]) -> dict[str, Any]:
    chance = random.Random(order["seed"])
    count = int(order["per_second"] * order["seconds"])
    moments = sorted(chance.uniform(0, order["seconds"]) for _ in range(count))
    granted: list[float] = []
    released: list[float] = []
    clients = [await Client.connect(order) for _ in range(order["clients"])]
    begin = time.perf_counter() + 0.2

    async def one(client: Client, mine: list[float]) -> None:
        for moment in mine:
            await asyncio.sleep(begin + moment - time.perf_counter())
            ticket = await client.request()
            at = time.perf_counter()
            granted.append((at - begin - moment) * 1000)
            await client.release(ticket)
            released.append((time.perf_counter() - at) * 1000)

    step = order["clients"]
    async with asyncio.timeout(order["seconds"] + DEADLINE_S), asyncio.TaskGroup() as group:
        for number, client in enumerate(clients):
            group.create_task(one(client, moments[number::step]))
    took = time.perf_counter() - begin
    for client in clients:
        client.close()
    return {"granted_ms": granted, "released_ms": released, "seconds": took}


def closed_loop(order: dict[str, Any]) -> dict[str, Any]:
    """order: socket, vm, request, clients, seconds. → operations, seconds."""
    return asyncio.run(_closed_loop(order))


async def _closed_loop(order: dict[str, Any]) -> dict[str, Any]:
    clients = [await Client.connect(order) for _ in range(order["clients"])]
    operations = 0
    begin = time.perf_counter()
    until = begin + order["seconds"]

    async def one(client: Client) -> None:
        nonlocal operations
        while time.perf_counter() < until:
            await client.release(await client.request())
            operations += 2

    async with asyncio.timeout(order["seconds"] + DEADLINE_S), asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(one(client))
    took = time.perf_counter() - begin
    for client in clients:
        client.close()
    return {"operations": operations, "seconds": took}
