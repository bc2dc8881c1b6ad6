"""Operations and events over HTTP: long work, and what changes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from copper.controller.access import Asking, allow, may_see
from copper.controller.api.answers import problems
from copper.controller.api.front import JSON, Front
from copper.controller.events import ChangeKind
from copper.controller.pages import Listing, Page
from copper.model.errors import Conflict, NotFound, TooOld
from copper.model.machine import Record
from copper.model.operations import Change, Operation, OperationKind, OperationState
from copper.model.users import Principal

_listing = Listing(Operation, lambda operation: operation.id)
WAIT_MOST_S = 300.0


class OperationFilter(Page):
    """Which operations are listed."""

    cluster: str | None = None
    state: OperationState | None = None
    kind: OperationKind | None = None


class Wait(Record):
    """How long an answer may take."""

    timeout_s: float = Field(default=60, ge=0, le=WAIT_MOST_S)


class EventFilter(Record):
    """Which changes are told, and from where on."""

    kind: list[ChangeKind] = Field(default=[])
    cluster: str | None = None
    after: str = Field(default="", max_length=40, description="the id of the last event seen")


def routes(front: Front) -> APIRouter:
    """/v1/operations and all below, and /v1/events."""
    operations = front.operations
    router = APIRouter(
        prefix="/v1",
        dependencies=[allow("admin", "user")],
        route_class=front.replies.route_class(),
    )

    def see(who: Principal, id: str) -> Operation:
        operation = operations.show(id)
        if not may_see(who, operation.owner):
            raise NotFound(f"there is no operation {id!r:.60}")
        return operation

    @router.get(
        "/operations",
        tags=["operations"],
        operation_id="list_operations",
        summary="Operations, the oldest first: those under way, and those that ended lately",
        response_model=list[Operation],
    )
    async def list_all(
        request: Request, who: Asking, chosen: Annotated[OperationFilter, Query()]
    ) -> Response:
        found = (
            one
            for one in operations.all()
            if may_see(who, one.owner)
            and chosen.cluster in (None, one.cluster)
            and chosen.state in (None, one.state)
            and chosen.kind in (None, one.kind)
        )
        return _listing.by_name(found, chosen, request)

    @router.get(
        "/operations/{id}",
        tags=["operations"],
        operation_id="show_operation",
        summary="One operation, and how far it is",
        response_model=Operation,
        responses=problems(NotFound),
    )
    async def show(id: str, who: Asking) -> Response:
        return Response(see(who, id).model_dump_json(), media_type=JSON)

    @router.get(
        "/operations/{id}/wait",
        tags=["operations"],
        operation_id="wait_operation",
        summary="The operation once it has ended, or as it is after `timeout_s`",
        response_model=Operation,
        responses=problems(NotFound),
    )
    async def wait(id: str, who: Asking, how: Annotated[Wait, Query()]) -> Response:
        see(who, id)
        operation = await operations.wait(id, how.timeout_s)
        return Response(operation.model_dump_json(), media_type=JSON)

    @router.post(
        "/operations/{id}/cancel",
        tags=["operations"],
        operation_id="cancel_operation",
        summary="Ends an operation; answers once what it had begun is undone",
        response_model=Operation,
        responses=problems(NotFound, Conflict),
    )
    async def cancel(id: str, who: Asking) -> Response:
        see(who, id)
        return Response((await operations.cancel(id)).model_dump_json(), media_type=JSON)

    @router.get(
        "/events",
        tags=["events"],
        operation_id="follow_events",
        summary="What changes, in order, as server-sent events; nothing is skipped",
        response_class=StreamingResponse,
        responses={
            200: {
                "model": Change,
                "description": "Each event's data is a Change, its id is where to go on from",
            },
            **problems(NotFound, TooOld),
        },
    )
    async def events(
        request: Request,
        who: Asking,
        chosen: Annotated[EventFilter, Query()],
        last_event_id: Annotated[str | None, Header(max_length=40)] = None,
    ) -> Response:
        changes = await front.events.stream(
            who,
            last_event_id or chosen.after,
            chosen.kind,
            chosen.cluster,
            lambda: front.access.check_still(request.scope),
        )
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(changes, media_type="text/event-stream", headers=headers)

    return router
