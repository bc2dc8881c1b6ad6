"""Hosts, images, the audit and Copper's own health over HTTP, and what host agents tell."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import TypeAdapter

from copper.controller.access import Asking, GuardedRoute, allow, may_see
from copper.controller.api.answers import problems
from copper.controller.api.front import JSON, Front
from copper.controller.pages import Listing, Page
from copper.controller.rows import ClusterRow, cluster_key
from copper.model.api import GuestCall, Health, HostFacts, ImageInfo, VmEnded
from copper.model.audit import Difference
from copper.model.errors import Conflict, NoRoom, NotFound
from copper.model.users import Principal

_hosts = Listing(HostFacts, lambda host: host.name)
_images = Listing(ImageInfo, lambda image: image.name)
_differences = TypeAdapter(list[Difference])


class HostFilter(Page):
    """Which hosts are listed."""

    tag: str | None = None


def routes(front: Front) -> APIRouter:
    """/v1/health, /v1/hosts, /v1/images and /v1/audit."""
    core = front.core
    router = APIRouter(prefix="/v1", route_class=front.replies.route_class())
    both, admin = [allow("admin", "user")], [allow("admin")]

    @router.get(
        "/health",
        tags=["copper"],
        dependencies=[allow()],
        operation_id="health",
        summary="That a Copper serves here, and which; asked without a token",
    )
    async def health() -> Health:
        return front.health()

    @router.get(
        "/hosts",
        tags=["hosts"],
        dependencies=admin,
        operation_id="list_hosts",
        summary="The hosts that answer",
        response_model=list[HostFacts],
    )
    async def list_hosts(request: Request, chosen: Annotated[HostFilter, Query()]) -> Response:
        hosts = sorted(core.host_facts(), key=lambda host: host.name)
        found = (host for host in hosts if chosen.tag is None or chosen.tag in host.tags)
        return _hosts.by_name(found, chosen, request)

    @router.get(
        "/hosts/{name}",
        tags=["hosts"],
        dependencies=admin,
        operation_id="show_host",
        summary="One host",
        response_model=HostFacts,
        responses=problems(NotFound),
    )
    async def show_host(name: str) -> Response:
        hosts = {host.name: host for host in core.host_facts()}
        if name not in hosts:
            known = ", ".join(sorted(hosts)[:5]) or "none answers"
            raise NotFound(f"there is no host {name!r:.60}", advice=f"hosts: {known}")
        return Response(hosts[name].model_dump_json(), media_type=JSON)

    @router.get(
        "/images",
        tags=["images"],
        dependencies=both,
        operation_id="list_images",
        summary="The stored images",
        response_model=list[ImageInfo],
    )
    async def list_images(
        request: Request, who: Asking, chosen: Annotated[Page, Query()]
    ) -> Response:
        images = [_seen(front, who, image) for image in await core.images()]
        return _images.by_name(images, chosen, request)

    @router.delete(
        "/images/{name}",
        status_code=204,
        tags=["images"],
        dependencies=admin,
        operation_id="delete_image",
        summary="Deletes a stored image that no virtual cluster stands on",
        responses=problems(NotFound, Conflict),
    )
    async def delete_image(name: str) -> Response:
        await core.delete_image(name)
        return Response(status_code=204)

    @router.get(
        "/audit",
        tags=["audit"],
        dependencies=admin,
        operation_id="audit",
        summary="Compares what is written down with what the hosts have",
        response_model=list[Difference],
    )
    async def audit() -> Response:
        return Response(_differences.dump_json(await front.audit(False)), media_type=JSON)

    @router.post(
        "/audit",
        tags=["audit"],
        dependencies=admin,
        operation_id="repair",
        summary="Compares, and mends what is safe to mend",
        response_model=list[Difference],
    )
    async def repair() -> Response:
        return Response(_differences.dump_json(await front.audit(True)), media_type=JSON)

    return router


def _seen(front: Front, who: Principal, image: ImageInfo) -> ImageInfo:
    """An image, with those virtual clusters on it that may be seen."""
    rows = [front.book.find(cluster_key(name), ClusterRow) for name in image.users]
    own = [row.name for row in rows if row is not None and may_see(who, row.owner)]
    return image.model_copy(update={"users": own})


def host_routes(front: Front) -> APIRouter:
    """/v1/calls and /v1/ended: what host agents tell, and nobody else."""
    router = APIRouter(
        prefix="/v1", tags=["hosts"], dependencies=[allow("host")], route_class=GuardedRoute
    )

    @router.post(
        "/calls",
        operation_id="answer_call",
        summary="Answers what a program in a guest asked for",
        response_model=dict[str, Any],
        responses=problems(NotFound, Conflict, NoRoom),
    )
    async def call(body: GuestCall) -> dict[str, Any]:
        return await front.core.calls.answer(body)

    @router.post(
        "/ended",
        status_code=204,
        operation_id="vm_ended",
        summary="Takes note of a VM that ended on its own",
    )
    async def ended(body: VmEnded) -> Response:
        await front.core.ended(body)
        return Response(status_code=204)

    return router
