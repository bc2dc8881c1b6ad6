"""Public networks and port forwards over HTTP: networks are an admin's, whose names users may know."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from copper.controller.access import Asking, allow, see_cluster
from copper.controller.api.answers import problems
from copper.controller.api.front import JSON, Front
from copper.controller.pages import Listing, Page
from copper.model.api import Cluster
from copper.model.errors import Conflict, NotFound, Refused
from copper.model.networks import (
    Forward,
    Lease,
    Network,
    NewEgress,
    NewForward,
    NewNetwork,
    Protocol,
)

PRIVILEGED = 1024  # ports below it are the host's own services': an admin's to give
_networks = Listing(Network, lambda network: network.name)
_leases = Listing(Lease, lambda lease: lease.address)
_forwards = Listing(Forward, lambda one: f"{one.host_port:05}-{one.protocol}")


def routes(front: Front) -> APIRouter:
    """/v1/networks and all below, and the forwards of virtual clusters."""
    networks = front.core.networks
    router = APIRouter(prefix="/v1", tags=["networks"], route_class=front.replies.route_class())
    both, admin = [allow("admin", "user")], [allow("admin")]

    @router.get(
        "/networks",
        dependencies=both,
        operation_id="list_networks",
        summary="The public networks; users are told their names",
        response_model=list[Network],
    )
    async def list_networks(
        request: Request, who: Asking, chosen: Annotated[Page, Query()]
    ) -> Response:
        found = networks.all()
        if not who.sees_all:
            found = [Network(name=one.name) for one in found]
        return _networks.by_name(found, chosen, request)

    @router.post(
        "/networks",
        status_code=201,
        dependencies=admin,
        operation_id="create_network",
        summary="Makes a public network of a pool of addresses",
        response_model=Network,
        responses=problems(Conflict),
    )
    async def create_network(new: NewNetwork) -> Response:
        made = await networks.create(new)
        return Response(made.model_dump_json(), 201, media_type=JSON)

    @router.get(
        "/networks/{name}",
        dependencies=admin,
        operation_id="show_network",
        summary="One public network",
        response_model=Network,
        responses=problems(NotFound),
    )
    async def show_network(name: str) -> Response:
        return Response(networks.show(name).model_dump_json(), media_type=JSON)

    @router.delete(
        "/networks/{name}",
        status_code=204,
        dependencies=admin,
        operation_id="delete_network",
        summary="Forgets a public network that nobody has an address of, or names",
        responses=problems(NotFound, Conflict),
    )
    async def delete_network(name: str) -> Response:
        await networks.delete(name)
        return Response(status_code=204)

    @router.get(
        "/networks/{name}/leases",
        dependencies=admin,
        operation_id="list_leases",
        summary="Which VM has which address of a network",
        response_model=list[Lease],
        responses=problems(NotFound),
    )
    async def list_leases(
        name: str, request: Request, chosen: Annotated[Page, Query()]
    ) -> Response:
        return _leases.by_name(networks.leases(name), chosen, request)

    _add_egress(router, front)
    _add_forwards(router, front)
    return router


def _add_egress(router: APIRouter, front: Front) -> None:
    @router.put(
        "/clusters/{name}/egress",
        dependencies=[allow("admin", "user")],
        operation_id="set_egress",
        summary="Sets what of the world its VMs reach, of those that run at once",
        response_model=Cluster,
        responses=problems(NotFound, Conflict),
    )
    async def set_egress(name: str, new: NewEgress, who: Asking) -> Response:
        row = see_cluster(front.book, who, name)
        await front.core.exposures.let_out(row.name, new.egress)
        return Response(front.core.cluster(row.name).model_dump_json(), media_type=JSON)


def _add_forwards(router: APIRouter, front: Front) -> None:
    both = [allow("admin", "user")]
    exposures = front.core.exposures

    @router.get(
        "/clusters/{name}/forwards",
        dependencies=both,
        operation_id="list_forwards",
        summary="The hosts' ports that lead to VMs of a virtual cluster",
        response_model=list[Forward],
        responses=problems(NotFound),
    )
    async def list_forwards(
        name: str, request: Request, who: Asking, chosen: Annotated[Page, Query()]
    ) -> Response:
        row = see_cluster(front.book, who, name)
        return _forwards.by_name(exposures.forwards(row.name), chosen, request)

    @router.post(
        "/clusters/{name}/forwards",
        status_code=201,
        dependencies=both,
        operation_id="create_forward",
        summary="Has a port of the hosts lead to a VM, whenever that runs",
        response_model=Forward,
        responses=problems(NotFound, Conflict),
    )
    async def create_forward(name: str, new: NewForward, who: Asking) -> Response:
        row = see_cluster(front.book, who, name)
        if new.host_port < PRIVILEGED and not who.sees_all:
            raise Refused(
                f"port {new.host_port} of the hosts may be given by an admin only",
                advice=f"take one from {PRIVILEGED}",
            )
        made = await exposures.forward(row.name, new)
        return Response(made.model_dump_json(), 201, media_type=JSON)

    @router.delete(
        "/clusters/{name}/forwards/{protocol}/{host_port}",
        status_code=204,
        dependencies=both,
        operation_id="delete_forward",
        summary="Has a port of the hosts lead nowhere",
        responses=problems(NotFound, Conflict),
    )
    async def delete_forward(
        name: str, protocol: Protocol, host_port: Annotated[int, Path(ge=1, le=65535)], who: Asking
    ) -> Response:
        row = see_cluster(front.book, who, name)
        await exposures.unforward(row.name, protocol, host_port)
        return Response(status_code=204)
