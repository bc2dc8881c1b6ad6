"""What was used, over HTTP: GET /v1/usage and /v1/clusters/{name}/usage. A user sees their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from copper.controller.access import allow
from copper.controller.accounts import Accounts, By
from copper.controller.api.answers import problems
from copper.controller.book import Book
from copper.controller.rows import ClusterRow, cluster_key
from copper.model.errors import NotFound
from copper.model.usage import Usage
from copper.model.users import Principal

Moment = Annotated[float | None, Query(ge=0, le=1e11, allow_inf_nan=False)]


def routes(accounts: Accounts, book: Book, principal: Callable[..., Any]) -> APIRouter:
    """`principal` is a dependency that gives the Principal who asks."""
    router = APIRouter(prefix="/v1", tags=["usage"], dependencies=[allow("admin", "user")])
    asks = Depends(principal)

    @router.get(
        "/usage",
        operation_id="list_usage",
        summary="What virtual clusters or users have used",
        responses=problems(NotFound),
    )
    async def usage(
        cluster: str | None = None,
        user: str | None = None,
        begin: Moment = None,
        end: Moment = None,
        by: By = "cluster",
        who: Principal = asks,
    ) -> list[Usage]:
        if not who.sees_all and user not in (None, who.name):
            raise NotFound(f"there is no user {user!r:.60}")
        owner = user if who.sees_all else who.name
        return accounts.usage(cluster, owner, begin, end, by)

    @router.get(
        "/clusters/{name}/usage",
        operation_id="list_cluster_usage",
        summary="What a virtual cluster has used",
        responses=problems(NotFound),
    )
    async def cluster_usage(
        name: str, begin: Moment = None, end: Moment = None, who: Principal = asks
    ) -> list[Usage]:
        """One entry for each owner that had a virtual cluster of this name, also when it was deleted."""
        owner = None if who.sees_all else who.name
        row = book.find(cluster_key(name), ClusterRow)
        there = row is not None and owner in (None, row.owner)
        if not there and not accounts.usage(name, owner):
            raise NotFound(
                f"there is no virtual cluster {name!r:.60}", advice="gc-vc list shows all"
            )
        return accounts.usage(name, owner, begin, end)

    return router
