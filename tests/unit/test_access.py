"""Who asks: tokens, their end, the two kinds of listeners, streams, and host agents' routes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from copper.controller import access as module
from copper.controller.access import Access, asking
from copper.controller.book import Book
from copper.controller.rows import vm_key
from copper.controller.users import Users
from copper.model.errors import Unauthorized
from copper.model.users import IssuedToken, NewToken, NewUser, UserChange
from copper.store.memory import MemoryStore
from tests.cluster.front import vm_of


class World:
    """One user with a token, and an application that says who asked it."""

    def __init__(self) -> None:
        self.book = Book(MemoryStore())
        self.access = Access(self.book)
        self.users = Users(self.book)
        self.asked: list[tuple[str, str]] = []
        self.began = asyncio.Event()
        self.lasting = False

    async def token(self, **more: Any) -> IssuedToken:
        if not self.users.all():
            await self.users.create(NewUser(name="bob"))
        return await self.users.issue("bob", NewToken(**more))

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import HTTPConnection

        who = await asking(HTTPConnection(scope))
        self.asked.append((who.name, who.role))
        self.began.set()
        if self.lasting:
            await asyncio.Event().wait()

    async def ask(
        self, secret: str | None, path: str = "/v1/vms", *, kind: str = "http", method: str = "GET"
    ) -> list[Any]:
        """What is sent to who asked; empty when the application was let decide."""
        sent: list[Any] = []
        headers = [] if secret is None else [(b"authorization", f"Bearer {secret}".encode())]
        scope = {"type": kind, "path": path, "headers": headers, "extensions": {}}
        if kind == "http":
            scope["method"] = method

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.access.guarded(self.app)(scope, receive, send)
        return sent

    async def status(self, secret: str | None, path: str = "/v1/vms", method: str = "GET") -> int:
        sent = await self.ask(secret, path, method=method)
        return int(sent[0]["status"]) if sent else 200


async def test_a_token_says_who_asks() -> None:
    world = World()
    token = await world.token()
    assert await world.status(token.secret) == 200
    assert world.asked == [("bob", "user")]


@pytest.mark.parametrize("change", ["first", "last", "id", "empty", "word", "none", "sha"])
async def test_what_is_not_the_secret_is_nobody_s(change: str) -> None:
    world = World()
    token = await world.token()
    _, id, random = token.secret.split("_", 2)
    other = {
        "first": f"cu_{id}_{'A' if random[0] != 'A' else 'B'}{random[1:]}",
        "last": token.secret[:-1],
        "id": f"cu_{'0' * len(id)}_{random}",
        "empty": f"cu_{id}_",
        "word": "word",
        "none": None,
        "sha": f"cu_{id}_{(await world.book.store.list('tokens/'))[0].value['sha256']}",
    }[change]
    assert await world.status(other) == 401
    assert world.asked == []


async def test_a_token_ends_by_its_time_by_a_revoke_and_with_its_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    short, revoked, last = [await world.token(expires_in_s=60) for _ in range(3)]
    monkeypatch.setattr(module, "now", lambda: short.created + 59)
    assert await world.status(short.secret) == 200
    monkeypatch.setattr(module, "now", lambda: short.created + 60)
    assert await world.status(short.secret) == 401
    monkeypatch.setattr(module, "now", lambda: short.created)
    await world.users.revoke("bob", revoked.id)
    assert await world.status(revoked.secret) == 401
    assert await world.status(last.secret) == 200
    await world.users.delete("bob")
    assert await world.status(last.secret) == 401
    await world.users.create(NewUser(name="bob"))
    assert await world.status(last.secret) == 401


async def test_a_role_counts_at_once() -> None:
    world = World()
    token = await world.token()
    await world.users.change("bob", UserChange(role="admin"))
    await world.status(token.secret)
    assert world.asked == [("bob", "admin")]


async def test_the_process_s_own_secret_is_new_each_time() -> None:
    world, other = World(), World()
    own = world.access.own_headers["authorization"].removeprefix("Bearer ")
    assert await world.status(own) == 200
    assert world.asked == [("host", "host")]
    assert await other.status(own) == 401


async def test_health_is_asked_without_a_token_and_nobody_is_known_then() -> None:
    world = World()
    with pytest.raises(Unauthorized):
        await world.ask(None, "/v1/health")


async def test_two_tokens_in_one_request_are_none() -> None:
    world = World()
    secret = (await world.token()).secret.encode()
    headers = [(b"authorization", b"Bearer " + secret)] * 2
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "method": "GET", "path": "/v1/vms", "headers": headers}
    await world.access.guarded(world.app)(scope, send, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 401


async def test_a_websocket_without_a_token_is_never_accepted() -> None:
    world = World()
    sent = await world.ask(None, "/host/v1/vms/a-0/exec", kind="websocket")
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize("how", ["revoked", "deleted", "expired"])
async def test_a_stream_ends_with_its_token(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    token = await world.token(expires_in_s=60)
    await world.book.commit(put={vm_key("a-0"): vm_of("a", 0, "bob")})
    world.lasting = True
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 0.01 if how == "expired" else 60)
    asked = asyncio.create_task(world.ask(token.secret, "/host/v1/vms/a-0/exec", kind="websocket"))
    await world.began.wait()
    match how:
        case "revoked":
            await world.users.revoke("bob", token.id)
        case "deleted":
            await world.users.delete("bob")
        case "expired":
            monkeypatch.setattr(module, "now", lambda: token.created + 60)
    async with asyncio.timeout(120):
        sent = await asked
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]


OWN = [
    ("GET", ""),
    ("GET", "/log"),
    ("WS", "/exec"),
    ("WS", "/push"),
    ("WS", "/pull"),
    ("WS", "/connect"),
]
NOT = [
    ("PUT", "/host/v1/vms/a-0"),
    ("DELETE", "/host/v1/vms/a-0"),
    ("GET", "/host/v1/vms"),
    ("GET", "/host/v1/vms/"),
    ("GET", "/host/v1/vms/a-0/"),
    ("GET", "/host/v1/vms/a-0/../b-0/log"),
    ("GET", "/host/v1/facts"),
    ("GET", "/host/v1/report"),
    ("GET", "/host/v1/images"),
    ("POST", "/host/v1/vms/a-0/freeze"),
    ("POST", "/host/v1/vms/a-0/log"),
    ("GET", "/host/v1/inventory"),
    ("GET", "/host/"),
]


@pytest.mark.parametrize(("method", "part"), OWN)
async def test_a_user_reaches_own_vms_on_a_host_and_others_are_not_there(
    method: str, part: str
) -> None:
    world = World()
    token = await world.token()
    await world.book.commit(
        put={vm_key("a-0"): vm_of("a", 0, "bob"), vm_key("b-0"): vm_of("b", 0, "eve")}
    )
    kind = "websocket" if method == "WS" else "http"
    assert await world.ask(token.secret, f"/host/v1/vms/a-0{part}", kind=kind) == []
    for other in ("b-0", "c-0"):
        sent = await world.ask(token.secret, f"/host/v1/vms/{other}{part}", kind=kind)
        assert sent[0].get("status", 404) == 404
    assert len(world.asked) == 1


@pytest.mark.parametrize(("method", "path"), NOT)
async def test_a_user_asks_a_host_for_nothing_else(method: str, path: str) -> None:
    world = World()
    token = await world.token()
    await world.book.commit(put={vm_key("a-0"): vm_of("a", 0, "bob")})
    assert await world.status(token.secret, path, method) == 403
    assert world.asked == []
    await world.users.change("bob", UserChange(role="admin"))
    assert await world.status(token.secret, path, method) == 200
