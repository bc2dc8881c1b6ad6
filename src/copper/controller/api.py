"""The controller's HTTP API (docs/reference/api.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Response

from copper.controller.calls import Calls
from copper.controller.clusters import Clusters
from copper.controller.hosts import Host
from copper.controller.state import State
from copper.model.api import (
    Cluster,
    GuestCall,
    Health,
    HostFacts,
    ImageInfo,
    NewCluster,
    Vm,
    VmEnded,
)
from copper.model.errors import NotFound


def routes(
    state: State, clusters: Clusters, calls: Calls, host: Host, health: Callable[[], Health]
) -> APIRouter:
    """All that the controller serves, below /v1."""
    router = APIRouter(prefix="/v1")

    @router.get("/health")
    async def get_health() -> Health:
        return health()

    @router.get("/clusters")
    async def list_clusters() -> list[Cluster]:
        return await clusters.all()

    @router.post("/clusters", status_code=201)
    async def create(new: NewCluster) -> Cluster:
        return await clusters.create(new)

    @router.get("/clusters/{name}")
    async def show(name: str) -> Cluster:
        return await clusters.show(name)

    @router.post("/clusters/{name}/boot")
    async def boot(name: str) -> Vm:
        return await clusters.boot(name)

    @router.post("/clusters/{name}/kill")
    async def kill(name: str) -> list[str]:
        return await clusters.kill(name)

    @router.delete("/clusters/{name}", status_code=204)
    async def delete(name: str) -> Response:
        await clusters.delete(name)
        return Response(status_code=204)

    @router.get("/vms")
    async def list_vms(cluster: str | None = None) -> list[Vm]:
        if cluster is not None:
            await state.cluster(cluster)
        return await state.vms(cluster)

    @router.get("/vms/{name}")
    async def show_vm(name: str) -> Vm:
        return await state.vm(name)

    @router.get("/hosts")
    async def hosts() -> list[HostFacts]:
        return [await host.facts()]

    @router.get("/hosts/{name}")
    async def show_host(name: str) -> HostFacts:
        facts = await host.facts()
        if facts.name != name:
            raise NotFound(f"there is no host {name!r}", advice=f"hosts: {facts.name}")
        return facts

    @router.get("/images")
    async def images() -> list[ImageInfo]:
        docs = await state.clusters()
        return [
            image.model_copy(update={"users": [d.name for d in docs if d.image == image.name]})
            for image in await host.images()
        ]

    @router.delete("/images/{name}", status_code=204)
    async def delete_image(name: str) -> Response:
        await clusters.delete_image(name)
        return Response(status_code=204)

    @router.post("/calls")
    async def call(body: GuestCall) -> dict[str, Any]:
        return await calls.answer(body)

    @router.post("/ended", status_code=204)
    async def ended(body: VmEnded) -> Response:
        await clusters.ended(body)
        return Response(status_code=204)

    return router
