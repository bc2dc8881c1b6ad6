"""Who asks, and what they may see: the principal of each connection, and each route's roles.

The Unix socket is root's: its file's mode says who may. Over a network a token says who it is; the host agents of this
process have a secret of their own, new at each start. What a user does not own is not there for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection

from copper.controller.book import Book, now
from copper.controller.rows import (
    ClusterRow,
    TokenRow,
    cluster_key,
    ticket_key,
    token_key,
    user_key,
    vm_key,
)
from copper.model.api import Vm
from copper.model.errors import CopperError, NotFound, Refused, Unauthorized
from copper.model.machine import Record
from copper.model.tickets import Ticket
from copper.model.users import ROOT, Principal, Role, User
from copper.wire.app import App, Receive, Scope, Send, problem_response

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

OPEN_PATHS = ("/v1/health",)  # what anybody who reaches the listener may ask
LOOK_AGAIN_S = 30.0  # how often the token of a long stream is looked at: it may expire meanwhile
_PRINCIPAL = "copper.principal"
_SECRET = "copper.secret"
_NOBODY = "0" * 64
# what of a host agent's API a user may ask about own VMs
_OWN_VM = re.compile(r"/host/v1/vms/([^/]+)(?:/(?:log|exec|push|pull|console|connect))?")


class Access:
    """Says of each connection who is asking; `trusted` and `guarded` wrap an application for a listener."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._own = secrets.token_urlsafe(32)
        self._own_sha256 = _sha256(self._own)
        self._streams: dict[str, set[asyncio.Task[None]]] = {}
        book.on_change(self._changed)

    @property
    def own_headers(self) -> dict[str, str]:
        """What requests within this process carry: they are host agents' and the controller's own."""
        return {"authorization": f"Bearer {self._own}"}

    def trusted(self, app: App) -> App:
        """For the Unix socket: who can open it is root."""
        root = Principal(name=ROOT, role="admin")

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            scope[_PRINCIPAL] = root
            await app(scope, receive, send)

        return serve

    def guarded(self, app: App) -> App:
        """For every other way in: a token says who asks, and without one nobody does."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] not in ("http", "websocket") or scope["path"] in OPEN_PATHS:
                await app(scope, receive, send)
                return
            try:
                secret = _secret_of(scope)
                who, token = self.of_secret(secret)
                self._check_host(who, scope)
            except CopperError as error:
                await _refuse(error, scope, receive, send)
                return
            scope[_PRINCIPAL] = who
            scope[_SECRET] = secret
            if scope["type"] == "websocket" and token is not None:
                await self._stream(token, secret, app, scope, receive, send)
            else:
                await app(scope, receive, send)

        return serve

    def of_secret(self, secret: str) -> tuple[Principal, TokenRow | None]:
        """Whose token this is; the token is None for this process's own. Raises Unauthorized."""
        sha256 = _sha256(secret)
        if hmac.compare_digest(sha256, self._own_sha256):
            return Principal(name="host", role="host"), None
        token = self._book.find(token_key(_id_of(secret)), TokenRow)
        right = hmac.compare_digest(sha256, token.sha256 if token else _NOBODY)
        if token is None or not right:
            raise Unauthorized("the token is not known", advice="copper token create makes one")
        if token.expires is not None and token.expires <= now():
            raise Unauthorized(
                "the token has expired", advice="copper token create makes a new one"
            )
        user = self._book.find(user_key(token.user), User)
        if user is None:
            raise Unauthorized("the token's user is not there any more")
        return Principal(name=user.name, role=user.role), token

    def check_still(self, scope: Scope) -> None:
        """For answers that go on: raises Unauthorized when the token that began it would begin nothing now."""
        if (secret := scope.get(_SECRET)) is not None:
            self.of_secret(secret)

    def _check_host(self, who: Principal, scope: Scope) -> None:
        """The host agents' routes know no users: theirs are checked here."""
        path = scope["path"]
        if who.role != "user" or not path.startswith("/host/"):
            return
        found = _OWN_VM.fullmatch(path)
        if found is None or scope.get("method", "GET") not in ("GET", "HEAD"):
            raise Refused(f"{who.name} may not ask a host for {path}")
        see_vm(self._book, who, found[1])

    async def _stream(
        self, token: TokenRow, secret: str, app: App, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serves a stream for as long as its token is good."""

        async def serve() -> None:
            await app(scope, receive, send)

        task = asyncio.create_task(serve())
        streams = self._streams.setdefault(token.id, set())
        streams.add(task)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=LOOK_AGAIN_S)
                try:
                    self.of_secret(secret)
                except Unauthorized:
                    task.cancel()
                    await asyncio.wait({task})
            if not task.cancelled():
                task.result()
                return
            with contextlib.suppress(Exception):  # it may have ended at the same moment
                await send({"type": "websocket.close", "code": 1008, "reason": "the token is over"})
        finally:
            task.cancel()
            streams.discard(task)
            if not streams:
                self._streams.pop(token.id, None)

    def _changed(self, key: str, before: Record | None, after: Record | None) -> None:
        if isinstance(before, TokenRow) and after is None:
            for task in self._streams.get(before.id, ()):
                task.cancel()


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("latin-1", "replace")).hexdigest()


def _id_of(secret: str) -> str:
    """The public part of a token, `cu_<id>_<random>`."""
    parts = secret.split("_", 2)
    return parts[1] if len(parts) == 3 and parts[0] == "cu" else ""


def _secret_of(scope: Scope) -> str:
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if not given:
        raise Unauthorized("no token was given", advice="send Authorization: Bearer TOKEN")
    text: str = given[0].decode("latin-1")
    scheme, _, secret = text.partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or not secret.strip():
        raise Unauthorized("that is no token", advice="send Authorization: Bearer TOKEN")
    return secret.strip()


async def _refuse(error: CopperError, scope: Scope, receive: Receive, send: Send) -> None:
    denies = "websocket.http.response" in (scope.get("extensions") or {})
    if scope["type"] == "websocket" and not denies:
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": error.message[:120]})
        return
    headers = {"www-authenticate": "Bearer"} if isinstance(error, Unauthorized) else None
    await problem_response(error, headers=headers)(scope, receive, send)


# what routes ask


async def asking(connection: HTTPConnection) -> Principal:
    """A dependency: who asks. Raises Unauthorized where no listener has said it."""
    who = connection.scope.get(_PRINCIPAL)
    if not isinstance(who, Principal):
        raise Unauthorized("nobody is known to ask")
    return who


Asking = Annotated[Principal, Depends(asking)]


class Roles:
    """A dependency that lets some roles pass, and everybody where there are none."""

    def __init__(self, *roles: Role) -> None:
        self.roles = roles

    async def __call__(self, connection: HTTPConnection) -> None:
        if not self.roles:
            return
        who = await asking(connection)
        if who.role not in self.roles:
            raise Refused(
                f"{who.name} may not do this: it has the role {who.role}",
                advice=f"it takes the role {' or '.join(self.roles)}",
            )


def allow(*roles: Role) -> Any:
    """For a route's `dependencies`: only these roles may ask it; without any, everybody may."""
    return Depends(Roles(*roles))


def roles_of(route: Any) -> tuple[Role, ...] | None:
    """A route's roles as `allow` has set them; None where it has not."""
    for dependency in getattr(route, "dependencies", ()):
        if isinstance(dependency.dependency, Roles):
            return dependency.dependency.roles
    return None


class GuardedRoute(APIRoute):
    """A route that looks at who asks before it looks at what was sent."""

    async def check(self, request: Request) -> None:
        """Raises Unauthorized, Refused."""
        for dependency in self.dependencies:
            if isinstance(dependency.dependency, Roles):
                await dependency.dependency(request)

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            await self.check(request)
            return await handle(request)

        return guarded


# what they may see: a user's own; all else is not there


def may_see(who: Principal, owner: str) -> bool:
    return who.sees_all or owner == who.name


def see_cluster(book: Book, who: Principal, name: str) -> ClusterRow:
    """Raises NotFound, also for one of another user."""
    row = book.find(cluster_key(name), ClusterRow)
    if row is None or not may_see(who, row.owner):
        raise NotFound(f"there is no virtual cluster {name!r:.60}", advice="gc-vc list shows all")
    return row


def see_vm(book: Book, who: Principal, name: str) -> Vm:
    """Raises NotFound, also for one of another user."""
    vm = book.find(vm_key(name), Vm)
    if vm is None or not may_see(who, vm.owner):
        raise NotFound(f"there is no VM {name!r:.60}", advice="gc-vm list shows all")
    return vm


def see_ticket(book: Book, who: Principal, ticket: str) -> Ticket:
    """Raises NotFound, also for one of another user."""
    row = book.find(ticket_key(ticket), Ticket)
    if row is None or not may_see(who, row.owner):
        raise NotFound(f"there is no ticket {ticket!r:.60}")
    return row
