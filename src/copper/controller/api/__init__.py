"""The controller's HTTP API (docs/reference/api.md): a module for each noun, over one Front."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI, Response

from copper.controller.access import allow
from copper.controller.api import clusters, document, hosts, networks, operations, users, vms
from copper.controller.api.front import JSON, Front
from copper.wire.app import add_routes

__all__ = ["Front", "install"]


def install(app: FastAPI, front: Front, *others: APIRouter) -> None:
    """Has the application serve the API below /v1, and the routers of others: host agents', accounts, metrics."""
    own = APIRouter(prefix="/v1", dependencies=[allow("admin", "user")])
    text: list[str] = []

    @own.get("/openapi.json", include_in_schema=False)
    async def description() -> Response:
        if not text:
            text.append(document.text_of(app))
        return Response(text[0], media_type=JSON)

    add_routes(
        app,
        own,
        hosts.routes(front),
        users.routes(front),
        clusters.routes(front),
        vms.routes(front),
        networks.routes(front),
        operations.routes(front),
        hosts.host_routes(front),
        *others,
    )
