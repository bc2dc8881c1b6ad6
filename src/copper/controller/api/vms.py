"""VMs and tickets over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, TypeAdapter

from copper.controller.access import Asking, allow, may_see, see_cluster, see_ticket, see_vm
from copper.controller.api.answers import LATER, problems
from copper.controller.api.front import JSON, Front
from copper.controller.operations import Progress
from copper.controller.pages import Listing, Page
from copper.model.api import Vm, VmState
from copper.model.errors import BadInput, Conflict, NoRoom, NotFound, TimedOut
from copper.model.machine import Record
from copper.model.names import MOST_CLONES, parse_vm_name
from copper.model.tickets import Ticket, TicketRequest
from copper.model.users import Principal

_vms = Listing(Vm, lambda vm: vm.name)
_tickets = Listing(Ticket, lambda ticket: ticket.id)
_clones = TypeAdapter(list[Vm])


class VmFilter(Page):
    """Which VMs are listed."""

    cluster: str | None = None
    state: VmState | None = None
    host: str | None = None


class TicketFilter(Page):
    """Which tickets are listed."""

    cluster: str | None = None


class NewClones(Record):
    """A number of clones, or a ticket that says it."""

    count: int | None = Field(default=None, ge=1, le=MOST_CLONES)
    ticket: str | None = Field(default=None, max_length=64)


def routes(front: Front) -> APIRouter:
    """/v1/vms and /v1/tickets, and all below."""
    book, core = front.book, front.core
    router = APIRouter(
        prefix="/v1",
        dependencies=[allow("admin", "user")],
        route_class=front.replies.route_class(),
    )

    def listed(who: Principal, chosen: VmFilter) -> Iterator[Vm]:
        """In the order of virtual clusters and vmids, from behind `after`; no more than is taken."""
        after = parse_vm_name(chosen.after) if chosen.after else ("", -1)
        if chosen.cluster is not None:
            rows = [see_cluster(book, who, chosen.cluster)]
        else:
            rows = [row for row in book.clusters() if may_see(who, row.owner)]
        for row in rows:
            if row.name < after[0]:
                continue
            for vm in book.vms(row.name):
                if (row.name, vm.vmid) > after and _is(vm, chosen):
                    yield vm

    @router.get(
        "/vms",
        tags=["vms"],
        operation_id="list_vms",
        summary="The VMs, by virtual cluster and vmid",
        response_model=list[Vm],
        responses=problems(NotFound),
    )
    async def list_vms(
        request: Request, who: Asking, chosen: Annotated[VmFilter, Query()]
    ) -> Response:
        return _vms.answer(listed(who, chosen), chosen, request)

    @router.get(
        "/vms/{name}",
        tags=["vms"],
        operation_id="show_vm",
        summary="One VM",
        response_model=Vm,
        responses=problems(NotFound),
    )
    async def show_vm(name: str, who: Asking) -> Response:
        return Response(see_vm(book, who, name).model_dump_json(), media_type=JSON)

    @router.post(
        "/vms/{name}/kill",
        status_code=204,
        tags=["vms"],
        operation_id="kill_vm",
        summary="Ends one VM; what it had is free when this answers",
        responses={**problems(NotFound, Conflict), **LATER},
    )
    async def kill_vm(name: str, request: Request, who: Asking) -> Response:
        vm = see_vm(book, who, name)

        async def work(_: Progress) -> None:
            await core.end([vm.name])

        return await front.operate(request, "kill", see_cluster(book, who, vm.cluster), work)

    @router.post(
        "/vms/{name}/clone",
        tags=["vms"],
        operation_id="clone_vm",
        summary="Forks a VM into `count` more, or onto all that a ticket holds; gives the clones",
        response_model=list[Vm],
        responses={**problems(NotFound, Conflict, NoRoom), **LATER},
    )
    async def clone(name: str, new: NewClones, request: Request, who: Asking) -> Response:
        vm = see_vm(book, who, name)
        if (new.count is None) == (new.ticket is None):
            raise BadInput("clone: expected either a count or a ticket")
        if new.ticket is not None:
            see_ticket(book, who, new.ticket)

        async def work(progress: Progress) -> list[Vm]:
            return await core.clone(vm.name, new.count, new.ticket, progress=progress)

        row = see_cluster(book, who, vm.cluster)
        return await front.operate(request, "clone", row, work, _clones)

    @router.post(
        "/vms/{name}/tickets",
        status_code=201,
        tags=["tickets"],
        operation_id="request_ticket",
        summary="Reserves room for clones of a VM; waits up to `timeout_ms` for it",
        response_model=Ticket,
        responses=problems(NotFound, Conflict, NoRoom, TimedOut),
    )
    async def request_ticket(name: str, wanted: TicketRequest, who: Asking) -> Response:
        vm = see_vm(book, who, name)
        ticket = await core.request_ticket(vm.name, wanted)
        return Response(ticket.model_dump_json(), 201, media_type=JSON)

    @router.get(
        "/tickets",
        tags=["tickets"],
        operation_id="list_tickets",
        summary="The tickets",
        response_model=list[Ticket],
        responses=problems(NotFound),
    )
    async def list_tickets(
        request: Request, who: Asking, chosen: Annotated[TicketFilter, Query()]
    ) -> Response:
        if chosen.cluster is not None:
            see_cluster(book, who, chosen.cluster)
        rows = sorted(book.tickets(chosen.cluster), key=lambda ticket: ticket.id)
        seen = (ticket for ticket in rows if may_see(who, ticket.owner))
        return _tickets.by_name(seen, chosen, request)

    @router.get(
        "/tickets/{id}",
        tags=["tickets"],
        operation_id="show_ticket",
        summary="One ticket",
        response_model=Ticket,
        responses=problems(NotFound),
    )
    async def show_ticket(id: str, who: Asking) -> Response:
        return Response(see_ticket(book, who, id).model_dump_json(), media_type=JSON)

    @router.delete(
        "/tickets/{id}",
        status_code=204,
        tags=["tickets"],
        operation_id="release_ticket",
        summary="Gives a ticket back that was not used",
        responses=problems(NotFound, Conflict),
    )
    async def release_ticket(id: str, who: Asking) -> Response:
        await core.release_ticket(see_ticket(book, who, id).id)
        return Response(status_code=204)

    return router


def _is(vm: Vm, chosen: VmFilter) -> bool:
    return chosen.state in (None, vm.state) and chosen.host in (None, vm.host)
