"""The host agent's HTTP API (docs/reference/api.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Body, Response, WebSocket
from fastapi.responses import PlainTextResponse

from copper.host import streams_api
from copper.host.agent import HostAgent
from copper.host.exposing import expose
from copper.host.vms import Vms
from copper.model.api import (
    Frozen,
    HostFacts,
    HostReport,
    ImageInfo,
    StandbyOrder,
    ThawOrder,
    VmLimits,
    VmStatus,
)
from copper.model.audit import Inventory, Thing
from copper.model.networks import Exposure


def routes(agent: HostAgent, others: Sequence[HostAgent] = ()) -> APIRouter:
    """All that a host agent serves, below /host/v1. A VM of `others`, fake hosts of this process, is found as well."""
    router = APIRouter(prefix="/host/v1")
    vms = agent.vms

    def of(name: str) -> Vms:
        return next((other.vms for other in others if name in other.vms), vms)

    @router.get("/facts")
    async def facts() -> HostFacts:
        return agent.facts()

    @router.get("/report")
    async def report() -> HostReport:
        return agent.report()

    @router.get("/vms")
    async def list_vms() -> list[VmStatus]:
        return [vm.status() for host in (agent, *others) for vm in host.vms.all()]

    @router.get("/vms/{name}")
    async def show_vm(name: str) -> VmStatus:
        return of(name).get(name).status()

    @router.put("/vms/{name}")
    async def put_vm(name: str, order: ThawOrder) -> VmStatus:
        return (await of(name).put(name, order)).status()

    @router.delete("/vms/{name}", status_code=204)
    async def delete_vm(name: str) -> Response:
        await of(name).delete(name)
        return Response(status_code=204)

    @router.post("/vms/{name}/pause")
    async def pause(name: str) -> VmStatus:
        return (await of(name).pause(name)).status()

    @router.post("/vms/{name}/unpause")
    async def unpause(name: str) -> VmStatus:
        return (await of(name).unpause(name)).status()

    @router.put("/vms/{name}/limits")
    async def limit(name: str, limits: VmLimits) -> VmStatus:
        return (await of(name).limit(name, limits)).status()

    @router.put("/vms/{name}/exposure")
    async def put_exposure(name: str, exposure: Exposure) -> VmStatus:
        return (await expose(of(name), name, exposure)).status()

    @router.post("/vms/{name}/freeze")
    async def freeze(name: str) -> Frozen:
        image, pause, took_ms = await of(name).freeze(name)
        steps = {
            "stop": pause.stop_ms,
            "devices": pause.devices_ms,
            "disk": pause.disk_ms,
            "memory": pause.memory_ms,
            "seed": pause.seed_ms,
            "cont": pause.cont_ms,
        }
        return Frozen(
            image=image,
            pause_ms=pause.pause_ms,
            freeze_ms=took_ms,
            pages=pause.pages,
            layer_bytes=pause.layer_bytes,
            steps=steps,
        )

    @router.delete("/frozen/{image}", status_code=204)
    async def release(image: str) -> Response:
        await vms.frozen.release(image)
        return Response(status_code=204)

    @router.delete("/frozen", status_code=204)
    async def release_all() -> Response:
        await vms.frozen.release_all()
        return Response(status_code=204)

    @router.post("/standbys", status_code=202)
    async def prepare(order: StandbyOrder) -> Response:
        vms.prepare(order.vm, order.count)
        return Response(status_code=202)

    @router.get("/vms/{name}/log")
    async def log(name: str) -> PlainTextResponse:
        text = await asyncio.to_thread(of(name).get(name).machine.log)
        return PlainTextResponse(text.decode(errors="replace"))

    @router.get("/images")
    async def images() -> list[ImageInfo]:
        return await asyncio.to_thread(agent.images)

    @router.post("/images/{name}/warm", status_code=204)
    async def warm(name: str) -> Response:
        await vms.warm(name)
        return Response(status_code=204)

    @router.delete("/images/{name}", status_code=204)
    async def delete_image(name: str) -> Response:
        await vms.delete_image(name)
        return Response(status_code=204)

    @router.post("/clusters/{cluster}/suspend")
    async def suspend(cluster: str, vms: Annotated[list[str], Body(embed=True)]) -> dict[str, int]:
        """Bytes on disk by VM: what several share counts for one of them."""
        return await agent.whole.suspend(cluster, vms)

    @router.post("/clusters/{cluster}/resume")
    async def resume(cluster: str) -> list[VmStatus]:
        return [vm.status() for vm in await agent.whole.resume(cluster)]

    @router.delete("/clusters/{cluster}/suspended", status_code=204)
    async def forget(cluster: str) -> Response:
        await agent.whole.forget(cluster)
        return Response(status_code=204)

    @router.get("/inventory")
    async def inventory() -> Inventory:
        return await agent.inventory()

    @router.post("/mend", status_code=204)
    async def mend(
        thing: Annotated[Thing, Body()], name: Annotated[str, Body(max_length=4096)]
    ) -> Response:
        await agent.hypervisor.mend(thing, name)
        return Response(status_code=204)

    @router.get("/suspended")
    async def suspended() -> dict[str, list[str]]:
        return agent.whole.suspended()

    @router.websocket("/vms/{name}/exec")
    async def exec_in(socket: WebSocket, name: str) -> None:
        await streams_api.exec_in(socket, lambda: of(name).awake(name))

    @router.websocket("/vms/{name}/push")
    async def push(socket: WebSocket, name: str) -> None:
        await streams_api.push(socket, lambda: of(name).awake(name))

    @router.websocket("/vms/{name}/pull")
    async def pull(socket: WebSocket, name: str) -> None:
        await streams_api.pull(socket, lambda: of(name).awake(name))

    @router.websocket("/vms/{name}/connect")
    async def connect(socket: WebSocket, name: str) -> None:
        await streams_api.connect(socket, lambda: of(name).awake(name))

    @router.websocket("/vms/{name}/console")
    async def console(socket: WebSocket, name: str) -> None:
        await streams_api.console(socket, lambda: of(name).get(name))

    return router
