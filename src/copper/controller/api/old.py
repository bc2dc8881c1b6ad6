"""The controller's HTTP API (docs/reference/api.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Response

from copper.controller.core import Core
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
from copper.model.users import ROOT


def routes(core: Core, health: Callable[[], Health]) -> APIRouter:
    """All that the controller serves, below /v1."""
    router = APIRouter(prefix="/v1")

    @router.get("/health")
    async def get_health() -> Health:
        return health()

    @router.get("/clusters")
    async def list_clusters() -> list[Cluster]:
        return core.clusters()

    @router.post("/clusters", status_code=201)
    async def create(new: NewCluster) -> Cluster:
        return await core.create(ROOT, new)

    @router.get("/clusters/{name}")
    async def show(name: str) -> Cluster:
        return core.cluster(name)

    @router.post("/clusters/{name}/boot")
    async def boot(name: str) -> Vm:
        return await core.boot(name)

    @router.post("/clusters/{name}/kill")
    async def kill(name: str) -> list[str]:
        return await core.kill(name)

    @router.delete("/clusters/{name}", status_code=204)
    async def delete(name: str) -> Response:
        await core.delete(name)
        return Response(status_code=204)

    @router.get("/vms")
    async def list_vms(cluster: str | None = None) -> list[Vm]:
        if cluster is not None:
            core.cluster(cluster)
        return core.book.vms(cluster)

    @router.get("/vms/{name}")
    async def show_vm(name: str) -> Vm:
        return core.book.vm(name)

    @router.get("/hosts")
    async def hosts() -> list[HostFacts]:
        return core.host_facts()

    @router.get("/hosts/{name}")
    async def show_host(name: str) -> HostFacts:
        core.hosts.get(name)
        return core.hosts.reports[name].facts

    @router.get("/images")
    async def images() -> list[ImageInfo]:
        return await core.images()

    @router.delete("/images/{name}", status_code=204)
    async def delete_image(name: str) -> Response:
        await core.delete_image(name)
        return Response(status_code=204)

    @router.post("/calls")
    async def call(body: GuestCall) -> dict[str, Any]:
        return await core.calls.answer(body)

    @router.post("/ended", status_code=204)
    async def ended(body: VmEnded) -> Response:
        await core.ended(body)
        return Response(status_code=204)

    return router
