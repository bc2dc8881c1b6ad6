"""A Copper without VMs: the API over a Unix socket with canned bodies."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import PlainTextResponse

from copper.model.errors import Conflict, CopperError, NoRoom, NotFound, TimedOut
from copper.wire.app import new_app
from copper.wire.problems import to_problem
from tests.unit.fake_streams import Line, fake_console, fake_exec, fake_pull, fake_push

SHAPE = {"memory_mib": 256, "cpus": 1, "disk_bytes": 268435456}
CLUSTERS: dict[str, dict[str, Any]] = {
    "demo": {
        "name": "demo",
        "image": "micro",
        "shape": SHAPE,
        "state": "running",
        "vms": 2,
        "next_vmid": 2,
        "created": 1700000000.0,
    },
    "empty": {
        "name": "empty",
        "image": "debian-12",
        "shape": {**SHAPE, "memory_mib": 1024},
        "state": "defined",
        "vms": 0,
        "next_vmid": 1,
        "created": 1700000000.0,
    },
}
VMS: dict[str, dict[str, Any]] = {
    f"demo-{vmid}": {
        "name": f"demo-{vmid}",
        "cluster": "demo",
        "vmid": vmid,
        "ip": f"10.0.0.{vmid + 1}",
        "generation": vmid,
        "parent": None if vmid == 0 else 0,
        "state": state,
        "host": "here",
        "created": 1700000000.0,
        "reason": reason,
    }
    for vmid, state, reason in ((0, "running", ""), (1, "running", ""), (2, "dead", "it crashed"))
}
STATUSES: dict[str, dict[str, Any]] = {
    f"demo-{vmid}": {
        "name": f"demo-{vmid}",
        "identity": {
            "cluster": "demo",
            "vmid": vmid,
            "name": f"demo-{vmid}",
            "ip": f"10.0.0.{vmid + 1}",
            "parent": None,
            "generation": vmid,
            "ticket": "",
            "vmids": [],
        },
        "shape": SHAPE,
        "needs": {
            "qemu": "7.2.22",
            "machine": "pc-q35-7.2",
            "accelerator": "tcg",
            "processor": "max",
        },
        "state": "running",
        "pid": 4000 + vmid,
        "template": "micro",
        "own_bytes": 18 << 20,
        "shared_bytes": 92 << 20,
        "layers": 1,
        "disks": 2,
        "ready_ms": 41.25,
        "last_pause_ms": None,
    }
    for vmid in (0, 1)
}
HOST = {
    "name": "here",
    "cpus": 4,
    "memory_bytes": 5631 << 20,
    "free_bytes": 2048 << 20,
    "disk_bytes": 183352 * 10**6,
    "disk_free_bytes": 183000 * 10**6,
    "accelerator": "tcg",
    "accelerator_reason": "COPPER_ACCEL says so",
    "qemu": "7.2.22",
    "machine": "pc-q35-7.2",
    "vms": 2,
    "standbys": 1,
}
IMAGE = {
    "name": "micro",
    "recipe": "micro",
    "created": 1700000000.0,
    "memory_mib": 256,
    "cpus": 1,
    "disk_bytes": 268435456,
    "stored_bytes": 97 << 20,
    "accelerator": "tcg",
    "users": ["demo"],
}
HEALTH = {
    "version": "0.1.0",
    "pid": 1,
    "host": "here",
    "accelerator": "tcg",
    "accelerator_reason": "COPPER_ACCEL says so",
    "state_dir": "/nowhere",
}
# what `create`, `boot` and the like of these names end with
TROUBLES: dict[str, CopperError] = {
    "broken": CopperError("it broke\nin two lines", advice="mend it"),
    "full": NoRoom("no room for it", advice="end others"),
    "late": TimedOut("the agent did not answer within 60 s"),
    "there": Conflict("virtual cluster 'there' exists"),
}


def known(table: dict[str, dict[str, Any]], name: str, what: str) -> dict[str, Any]:
    if name in TROUBLES:
        raise TROUBLES[name]
    if name not in table:
        raise NotFound(f"there is no {what} {name!r}")
    return table[name]


def fake_app(files: dict[str, bytes]) -> FastAPI:
    """The application. What is pushed lands in `files`, with its first message under its path + `?`."""
    app = new_app("fake", "0")

    @app.get("/v1/health")
    async def health() -> Any:
        return HEALTH

    @app.get("/v1/clusters")
    async def clusters() -> Any:
        return list(CLUSTERS.values())

    @app.post("/v1/clusters", status_code=201)
    async def create(request: Request) -> Any:
        new = await request.json()
        if new["name"] in TROUBLES:
            raise TROUBLES[new["name"]]
        if new["image"] != "micro":
            raise NotFound(f"there is no image {new['image']!r}", advice="images: micro")
        return {**CLUSTERS["empty"], "name": new["name"]}

    @app.get("/v1/clusters/{name}")
    async def cluster(name: str) -> Any:
        if name == "teapot":
            return PlainTextResponse("short and stout", status_code=418)
        if name == "babble":
            return PlainTextResponse("<html>")
        return known(CLUSTERS, name, "virtual cluster")

    @app.post("/v1/clusters/{name}/boot")
    async def boot(name: str) -> Any:
        known(CLUSTERS, name, "virtual cluster")
        if name == "demo":
            raise Conflict("virtual cluster 'demo' runs already", advice="gc-vc kill demo ends it")
        return {**VMS["demo-0"], "name": f"{name}-0", "cluster": name}

    @app.post("/v1/clusters/{name}/kill")
    async def kill(name: str) -> Any:
        known(CLUSTERS, name, "virtual cluster")
        return [vm["name"] for vm in VMS.values() if vm["cluster"] == name]

    @app.delete("/v1/clusters/{name}")
    async def delete(name: str) -> Any:
        known(CLUSTERS, name, "virtual cluster")
        return Response(status_code=204)

    @app.get("/v1/vms")
    async def vms(cluster: str | None = None) -> Any:
        if cluster is not None:
            known(CLUSTERS, cluster, "virtual cluster")
        return [vm for vm in VMS.values() if cluster in (None, vm["cluster"])]

    @app.get("/v1/vms/{name}")
    async def vm(name: str) -> Any:
        return known(VMS, name, "VM")

    @app.get("/v1/hosts")
    async def hosts() -> Any:
        return [HOST]

    @app.get("/v1/hosts/{name}")
    async def host(name: str) -> Any:
        return known({"here": HOST}, name, "host")

    @app.get("/v1/images")
    async def images() -> Any:
        return [IMAGE]

    @app.delete("/v1/images/{name}")
    async def delete_image(name: str) -> Any:
        if name == "micro":
            raise Conflict("image micro is in use by demo")
        known({}, name, "image")

    @app.get("/host/v1/facts")
    async def facts() -> Any:
        return HOST

    @app.get("/host/v1/vms")
    async def statuses() -> Any:
        return list(STATUSES.values())

    @app.get("/host/v1/vms/{name}")
    async def status(name: str) -> Any:
        return known(STATUSES, name, "VM on this host")

    @app.get("/host/v1/vms/{name}/log")
    async def log(name: str) -> Any:
        known(STATUSES, name, "VM on this host")
        return PlainTextResponse("boot\r\nlogin: ")

    @app.websocket("/host/v1/vms/{name}/{kind}")
    async def stream(ws: WebSocket, name: str, kind: str) -> None:
        await ws.accept()
        line = Line(ws)
        try:
            known(STATUSES, name, "VM on this host")
            if kind == "exec":
                await fake_exec(line)
            elif kind == "console":
                await fake_console(line)
            elif kind == "push":
                await fake_push(line, files)
            else:
                await fake_pull(line, files)
        except CopperError as error:
            await line.tell(type="error", problem=to_problem(error))
        await ws.close()

    return app


@contextmanager
def serving(path: Path, files: dict[str, bytes]) -> Iterator[None]:
    """Serves on a socket until the block ends."""
    config = uvicorn.Config(
        fake_app(files), log_level="error", lifespan="off", ws_ping_interval=None
    )
    server = uvicorn.Server(config)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen(64)  # a request that comes before the server has begun waits
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([sock])))
    thread.start()
    try:
        yield
    finally:
        server.should_exit = server.force_exit = True
        thread.join()
        sock.close()


@contextmanager
def fake_copper() -> Iterator[tuple[dict[str, str], dict[str, bytes]]]:
    """A fake that serves: the environment that leads commands to it, and the files in its VMs."""
    # not pytest's folder: a socket's path may have 107 characters
    with tempfile.TemporaryDirectory(prefix="cu-") as folder:
        files: dict[str, bytes] = {}
        environment = {"COPPER_RUN_DIR": folder, "COPPER_STATE_DIR": f"{folder}/state"}
        with serving(Path(folder, "api.sock"), files):
            yield environment, files
