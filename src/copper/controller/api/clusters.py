"""Virtual clusters over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, TypeAdapter

from copper.controller.access import Asking, allow, may_see, see_cluster
from copper.controller.api.answers import LATER, problems
from copper.controller.api.front import JSON, Front
from copper.controller.operations import Progress
from copper.controller.pages import Listing, Page
from copper.model.api import Cluster, ClusterState, Limits, NewCluster, Vm, VmLimits
from copper.model.errors import Conflict, Damaged, NoRoom, NotFound
from copper.model.machine import Record
from copper.model.operations import OperationKind
from copper.model.ssh import LoginKey
from copper.model.users import Principal

_listing = Listing(Cluster, lambda cluster: cluster.name)
_cluster = TypeAdapter(Cluster)
_vm = TypeAdapter(Vm)
_names = TypeAdapter(list[str])

# what is done to all VMs of a virtual cluster: the verb, and what it says of itself
_VERBS: tuple[tuple[OperationKind, str], ...] = (
    ("kill", "Ends all VMs of a virtual cluster, forks under way too, and gives their names"),
    ("pause", "Stops the processors of all its VMs"),
    ("unpause", "Has paused VMs go on"),
    (
        "suspend",
        "Stores all VMs on disk and ends them: no memory, no processes; a reboot is survived",
    ),
    ("resume", "Gives every suspended VM back as it was"),
)


class ClusterFilter(Page):
    """Which virtual clusters are listed."""

    owner: str | None = None
    state: ClusterState | None = None


class NewLimits(Record):
    """What is given is set, as a whole; what is not stays."""

    limits: Limits | None = Field(default=None, description="of all its VMs together")
    vm_limits: VmLimits | None = Field(default=None, description="of each of its VMs")


def routes(front: Front) -> APIRouter:
    """/v1/clusters and all below."""
    book, core = front.book, front.core
    router = APIRouter(
        prefix="/v1/clusters",
        tags=["clusters"],
        dependencies=[allow("admin", "user")],
        route_class=front.replies.route_class(),
    )

    def listed(who: Principal, chosen: ClusterFilter) -> Iterator[Cluster]:
        for row in book.clusters():
            if row.name <= chosen.after or not may_see(who, row.owner):
                continue
            if chosen.owner not in (None, row.owner):
                continue
            cluster = core.cluster(row.name)
            if chosen.state in (None, cluster.state):
                yield cluster

    @router.get(
        "",
        operation_id="list_clusters",
        summary="The virtual clusters",
        response_model=list[Cluster],
    )
    async def list_all(
        request: Request, who: Asking, chosen: Annotated[ClusterFilter, Query()]
    ) -> Response:
        return _listing.answer(listed(who, chosen), chosen, request)

    @router.post(
        "",
        status_code=201,
        operation_id="create_cluster",
        summary="Makes a virtual cluster of an image",
        response_model=Cluster,
        responses=problems(NotFound, Conflict),
    )
    async def create(new: NewCluster, who: Asking) -> Response:
        with front.users.owning(who, new.owner) as owner:
            cluster = await core.create(owner, new)
        return Response(cluster.model_dump_json(), 201, media_type=JSON)

    @router.get(
        "/{name}",
        operation_id="show_cluster",
        summary="One virtual cluster",
        response_model=Cluster,
        responses=problems(NotFound),
    )
    async def show(name: str, who: Asking) -> Response:
        see_cluster(book, who, name)
        return Response(core.cluster(name).model_dump_json(), media_type=JSON)

    @router.get(
        "/{name}/login-key",
        operation_id="login_key",
        summary="The SSH key pair of its VMs: who has it logs in to any of them as root",
        response_model=LoginKey,
        responses=problems(NotFound),
    )
    async def login_key(name: str, who: Asking) -> Response:
        see_cluster(book, who, name)
        headers = {"cache-control": "no-store"}
        return Response(core.logins.login_key(name).model_dump_json(), 200, headers, JSON)

    @router.delete(
        "/{name}",
        status_code=204,
        operation_id="delete_cluster",
        summary="Forgets a virtual cluster that has no VMs",
        responses={**problems(NotFound, Conflict), **LATER},
    )
    async def delete(name: str, request: Request, who: Asking) -> Response:
        row = see_cluster(book, who, name)
        return await front.operate(
            request, "delete", row, lambda progress: core.delete(row.name, progress)
        )

    @router.post(
        "/{name}/boot",
        operation_id="boot_cluster",
        summary="Boots the master; answers once its agent has answered",
        response_model=Vm,
        responses={**problems(NotFound, Conflict, NoRoom, Damaged), **LATER},
    )
    async def boot(name: str, request: Request, who: Asking) -> Response:
        row = see_cluster(book, who, name)
        return await front.operate(
            request, "boot", row, lambda progress: core.boot(row.name, progress), _vm
        )

    @router.put(
        "/{name}/limits",
        operation_id="limit_cluster",
        summary="Sets what a virtual cluster and each of its VMs may have, live",
        response_model=Cluster,
        responses={**problems(NotFound, Conflict, NoRoom), **LATER},
    )
    async def limit(name: str, new: NewLimits, request: Request, who: Asking) -> Response:
        row = see_cluster(book, who, name)

        async def work(_: Progress) -> Cluster:
            return await core.limit(row.name, new.limits, new.vm_limits)

        return await front.operate(request, "limit", row, work, _cluster)

    for verb, summary in _VERBS:
        _add(router, front, verb, summary)
    return router


def _add(router: APIRouter, front: Front, verb: OperationKind, summary: str) -> None:
    do: Any = getattr(front.core, verb)

    @router.post(
        f"/{{name}}/{verb}",
        operation_id=f"{verb}_cluster",
        summary=summary,
        response_model=list[str],
        responses={**problems(NotFound, Conflict, NoRoom), **LATER},
    )
    async def act(name: str, request: Request, who: Asking) -> Response:
        row = see_cluster(front.book, who, name)
        return await front.operate(
            request, verb, row, lambda progress: do(row.name, progress), _names
        )
