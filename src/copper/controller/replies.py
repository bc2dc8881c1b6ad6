"""Idempotency keys: the same request with the same key has one effect and one answer, also when Copper was restarted.

What was answered is kept as it was sent, for a day, the oldest going first where a user has very many. A request that
was cut off by Copper's end has no answer here, and is done anew.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import hashlib
import json
import logging
import re
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from copper.controller.access import GuardedRoute, Handler, asking
from copper.controller.book import Book, now
from copper.controller.rows import Reply, reply_key
from copper.model.errors import BadInput, Conflict, CopperError
from copper.model.users import Principal
from copper.wire.app import problem_response, unexpected
from copper.wire.problems import MEDIA_TYPE

KEPT_S = 24 * 3600.0
KEPT_MOST = 20_000  # answers of one user
KEPT_BYTES = 32 << 20  # and their bodies together
KEY = re.compile(r"[!-~]{1,200}")
HEADER = "idempotency-key"
SECRET = "copper.answer-is-secret"  # in a request's scope: its answer is kept in memory only

log = logging.getLogger(__name__)


@dataclasses.dataclass
class _UnderWay:
    request_sha256: str
    answer: asyncio.Future[Reply | None]  # None: it came to nothing, and may be done anew


class Replies:
    """What was answered to requests with keys. `open` when the book is open."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._under_way: dict[str, _UnderWay] = {}
        self._secret: dict[str, str] = {}  # bodies that are not written down
        self._kept: dict[str, collections.OrderedDict[str, Reply]] = {}  # by user, the oldest first
        self._bytes: collections.Counter[str] = collections.Counter()

    def open(self) -> None:
        """Knows again what is kept, the oldest first."""
        for reply in sorted(self._book.all("replies", Reply), key=lambda reply: reply.created):
            self._keep(reply)

    def route_class(self) -> type[APIRoute]:
        """The class of routes that take keys."""
        replies = self

        class KeyedRoute(GuardedRoute):
            """A route whose requests may carry a key."""

            takes_keys = True

            def get_route_handler(self) -> Handler:
                handle = super().get_route_handler()

                async def keyed(request: Request) -> Response:
                    key = request.headers.get(HEADER)
                    if key is None:
                        return await handle(request)
                    await self.check(request)
                    return await replies.once(await asking(request), key, request, handle)

                return keyed

        return KeyedRoute

    async def once(self, who: Principal, key: str, request: Request, handle: Handler) -> Response:
        """What `handle` answers, or has answered. Raises BadInput (the key), Conflict (another request)."""
        if not KEY.fullmatch(key):
            raise BadInput("Idempotency-Key: expected 1 to 200 visible ASCII characters")
        sha256 = await _sha256_of(request)
        place = reply_key(who.name, key)
        while True:
            under_way = self._under_way.get(place)
            if under_way is not None:
                _check_same(key, under_way.request_sha256, sha256)
                reply = await asyncio.shield(under_way.answer)
            else:
                reply = self._book.find(place, Reply)
                if reply is None or reply.status is None or now() - reply.created >= KEPT_S:
                    break
                _check_same(key, reply.request_sha256, sha256)
            if reply is not None:
                return self._again(place, reply)
        answer = asyncio.get_running_loop().create_future()
        self._under_way[place] = _UnderWay(sha256, answer)
        # whoever asked may go away: the answer is for when they ask again
        work = asyncio.create_task(self._first(place, who.name, key, sha256, request, handle))
        work.add_done_callback(_was_looked_at)
        return await asyncio.shield(work)

    async def _first(
        self, place: str, user: str, key: str, sha256: str, request: Request, handle: Handler
    ) -> Response:
        kept: Reply | None = None
        try:
            response = await _answer_of(request, handle)
            body = bytes(response.body).decode()
            reply = Reply(
                user=user,
                key=key,
                request_sha256=sha256,
                status=response.status_code,
                body=None if request.scope.get(SECRET) else body,
                created=now(),
            )
            if request.scope.get(SECRET):
                self._secret[place] = body
            await self._write(place, reply)
            kept = reply
            return response
        finally:
            self._under_way.pop(place).answer.set_result(kept)

    async def _write(self, place: str, reply: Reply) -> None:
        """It has happened: an answer that cannot be kept is given all the same."""
        try:
            await self._book.commit(put={place: reply}, delete=self._too_many(reply.user))
            self._keep(reply)
        except CopperError as error:
            log.warning("the answer to %s is not kept: %s", place, error)

    def _again(self, place: str, reply: Reply) -> Response:
        body = reply.body
        if body is None and (body := self._secret.get(place)) is None:
            raise Conflict(
                "this was done, and its answer was a secret that is not kept",
                advice="revoke what was issued, and ask again with a new key",
            )
        return _response(reply.status or 200, str(body))

    # what is kept

    def _keep(self, reply: Reply) -> None:
        kept = self._kept.setdefault(reply.user, collections.OrderedDict())
        if (before := kept.pop(reply.key, None)) is not None:
            self._bytes[reply.user] -= _size(before)
        kept[reply.key] = reply
        self._bytes[reply.user] += _size(reply)

    def _too_many(self, user: str, *, all: bool = False) -> list[str]:
        """Forgets the oldest of a user's answers; returns their keys, to be deleted."""
        kept = self._kept.get(user, collections.OrderedDict())
        gone = []
        while kept:
            key, oldest = next(iter(kept.items()))
            few = len(kept) < KEPT_MOST and self._bytes[user] < KEPT_BYTES
            if not all and few and now() - oldest.created < KEPT_S:
                break
            del kept[key]
            self._bytes[user] -= _size(oldest)
            place = reply_key(user, key)
            self._secret.pop(place, None)
            if place not in self._under_way:
                gone.append(place)
        return gone

    async def tidy(self) -> None:
        """Forgets what is older than a day."""
        for user in list(self._kept):
            await self._delete(self._too_many(user))

    async def forget(self, user: str) -> None:
        """For a user that is not there any more."""
        await self._delete(self._too_many(user, all=True))

    async def _delete(self, keys: list[str]) -> None:
        if keys:
            with contextlib.suppress(CopperError):  # they are found again at the next start
                await self._book.commit(delete=keys)


def _size(reply: Reply) -> int:
    return len(reply.body or "")


def _check_same(key: str, before: str, now: str) -> None:
    if before != now:
        raise Conflict(
            f"the key {key:.60} was used for another request",
            advice="each request has a key of its own",
        )


async def _sha256_of(request: Request) -> str:
    parts = (request.method, request.url.path, request.url.query)
    digest = hashlib.sha256(json.dumps(parts).encode())
    digest.update(await request.body())
    return digest.hexdigest()


async def _answer_of(request: Request, handle: Handler) -> Response:
    """What the work answers, errors too; raises what the request is refused for before anything is done."""
    try:
        return await handle(request)
    except (RequestValidationError, HTTPException):
        raise
    except CopperError as error:
        return problem_response(error)
    except Exception as error:
        log.exception("%s %s failed", request.method, request.url.path)
        return problem_response(unexpected(error))


def _response(status: int, body: str) -> Response:
    headers = {}
    if status == 202:
        headers["location"] = f"/v1/operations/{json.loads(body)['id']}"
    kind = MEDIA_TYPE if status >= 400 else "application/json"
    return Response(body or None, status, headers, media_type=kind if body else None)


def _was_looked_at(task: asyncio.Task[Any]) -> None:
    """Who asked may have gone away; whoever waits has the error itself."""
    if not task.cancelled():
        task.exception()
