"""The front of the controller: what all routes stand on, and long work as operations."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Request, Response
from pydantic import TypeAdapter

from copper.controller.access import Access
from copper.controller.api.core import Audit, Core
from copper.controller.book import Book
from copper.controller.events import Events
from copper.controller.operations import Operations, Work
from copper.controller.replies import Replies
from copper.controller.rows import ClusterRow
from copper.controller.users import Users
from copper.model.api import Health
from copper.model.errors import CopperError
from copper.model.operations import OperationKind

TIDY_S = 3600.0
JSON = "application/json"

log = logging.getLogger(__name__)


class Front:
    """All that routes ask; serves while it is `working`, with a book that is open."""

    def __init__(
        self,
        book: Book,
        core: Core,
        audit: Audit,
        access: Access,
        health: Callable[[], Health],
    ) -> None:
        self.book = book
        self.core = core
        self.audit = audit
        self.access = access
        self.health = health
        self.users = Users(book)
        self.operations = Operations(book)
        self.replies = Replies(book)
        self.events = Events(book, core)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Settles what the last end cut off; ends what is under way at its own end."""
        self.replies.open()
        await self.operations.open()
        tidying = asyncio.create_task(self._tidy())
        try:
            yield
        finally:
            tidying.cancel()
            await asyncio.gather(tidying, return_exceptions=True)
            await self.operations.close()

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_S)
            try:
                await self.operations.tidy()
                await self.replies.tidy()
            except CopperError as error:
                log.warning("what is old stays for another hour: %s", error)

    async def operate(
        self,
        request: Request,
        kind: OperationKind,
        row: ClusterRow,
        work: Work,
        answer: TypeAdapter[Any] | None = None,
    ) -> Response:
        """Does work on a virtual cluster as an operation. Answers with its result, 204 where it has none;
        to who would rather not wait, with the operation.
        """
        if not _prefers_async(request):
            result = await self.operations.run(kind, row.name, row.owner, work)
            if answer is None:
                return Response(status_code=204)
            return Response(answer.dump_json(result), media_type=JSON)
        operation = (await self.operations.begin(kind, row.name, row.owner, work)).operation
        headers = {
            "location": f"/v1/operations/{operation.id}",
            "preference-applied": "respond-async",
        }
        return Response(operation.model_dump_json(), 202, headers, media_type=JSON)


def _prefers_async(request: Request) -> bool:
    """Whether the header Prefer (RFC 7240) has respond-async among its preferences."""
    return any(
        part.partition(";")[0].strip().lower() == "respond-async"
        for line in request.headers.getlist("prefer")
        for part in line.split(",")
    )
