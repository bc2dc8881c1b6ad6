"""A Copper without VMs: the API over a Unix socket with canned bodies."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse

from copper.model.errors import Conflict, CopperError, NoRoom, NotFound, TimedOut, TooOld
from copper.wire.app import new_app
from copper.wire.problems import to_problem
from tests.unit.fake_bodies import (
    CHANGES,
    CLUSTERS,
    DIFFERENCES,
    FORWARD,
    HEALTH,
    HOST,
    IMAGE,
    LEASES,
    NETWORKS,
    OPERATIONS,
    STATUSES,
    TICKET,
    TOKEN,
    USAGE,
    USERS,
    VMS,
)
from tests.unit.fake_streams import Line, fake_console, fake_exec, fake_pull, fake_push

# what `create`, `boot` and the like of these names end with
TROUBLES: dict[str, CopperError] = {
    "broken": CopperError("it broke\nin two lines", advice="mend it"),
    "full": NoRoom("no room for it", advice="end others"),
    "late": TimedOut("the agent did not answer within 60 s"),
    "there": Conflict("virtual cluster 'there' exists"),
}


@dataclass(frozen=True)
class Sent:
    """One request that came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


SENT: list[Sent] = []  # since the fake began, the last at the end
SECRET = "cu_k3x9_secret"


def known(table: dict[str, dict[str, Any]], name: str, what: str) -> dict[str, Any]:
    if name in TROUBLES:
        raise TROUBLES[name]
    if name not in table:
        raise NotFound(f"there is no {what} {name!r}")
    return table[name]


def page_of(rows: list[dict[str, Any]], request: Request, name: str = "name") -> Response:
    """At most two rows, and where the others are."""
    query = request.query_params
    if "after" in query:
        rows = [row for row in rows if row[name] > query["after"]]
    for field in ("cluster", "host", "owner", "state"):
        rows = [row for row in rows if query.get(field) in (None, row.get(field))]
    headers = {}
    if len(rows) > 2:
        url = request.url.include_query_params(after=rows[1][name])
        headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
    return JSONResponse(rows[:2], headers=headers)


def work(request: Request, result: Any) -> Any:
    """What long work is answered with."""
    if request.headers.get("Prefer") == "respond-async":
        return JSONResponse(OPERATIONS["op-1"], status_code=202)
    return result


def event(change: dict[str, Any]) -> str:
    return f"id: {change['id']}\ndata: {json.dumps(change)}\n\n"


def fake_app(files: dict[str, bytes]) -> FastAPI:
    """The application. What is pushed lands in `files`, with its first message under its path + `?`."""
    app = new_app("fake", "0")

    @app.middleware("http")
    async def seen(request: Request, call_next: Any) -> Any:
        body = await request.body()
        SENT.append(
            Sent(
                request.method,
                request.url.path,
                dict(request.query_params),
                dict(request.headers),
                json.loads(body) if body else None,
            )
        )
        if request.client and request.headers.get("Authorization") != f"Bearer {SECRET}":
            return JSONResponse({"detail": "who?"}, status_code=401)
        return await call_next(request)

    @app.get("/v1/health")
    async def health() -> Any:
        return HEALTH

    @app.get("/v1/whoami")
    async def whoami() -> Any:
        return {"name": "ann", "role": "user"}

    @app.get("/v1/clusters")
    async def clusters(request: Request) -> Any:
        return page_of(list(CLUSTERS.values()), request)

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
        if name == "newer":
            return {"name": "newer", "colour": "blue"}
        return known(CLUSTERS, name, "virtual cluster")

    @app.post("/v1/clusters/{name}/boot")
    async def boot(name: str, request: Request) -> Any:
        known(CLUSTERS, name, "virtual cluster")
        if name == "demo":
            raise Conflict("virtual cluster 'demo' runs already", advice="gc-vc kill demo ends it")
        return work(request, {**VMS["demo-0"], "name": f"{name}-0", "cluster": name})

    @app.put("/v1/clusters/{name}/limits")
    async def limit(name: str) -> Any:
        return known(CLUSTERS, name, "virtual cluster")

    @app.post("/v1/clusters/{name}/{verb}")
    async def act(name: str, verb: str, request: Request) -> Any:
        if verb == "forwards":
            return FORWARD
        if verb not in ("kill", "pause", "unpause", "suspend", "resume"):
            raise NotFound(verb)
        known(CLUSTERS, name, "virtual cluster")
        return work(request, [vm["name"] for vm in VMS.values() if vm["cluster"] == name])

    @app.delete("/v1/clusters/{name}")
    async def delete(name: str, request: Request) -> Any:
        known(CLUSTERS, name, "virtual cluster")
        return work(request, Response(status_code=204))

    @app.get("/v1/vms")
    async def vms(request: Request, cluster: str | None = None) -> Any:
        if cluster is not None:
            known(CLUSTERS, cluster, "virtual cluster")
        return page_of(list(VMS.values()), request)

    @app.get("/v1/vms/{name}")
    async def vm(name: str) -> Any:
        return known(VMS, name, "VM")

    @app.post("/v1/vms/{name}/kill")
    async def kill_vm(name: str, request: Request) -> Any:
        known(VMS, name, "VM")
        return work(request, Response(status_code=204))

    @app.post("/v1/vms/{name}/clone")
    async def clone(name: str, request: Request) -> Any:
        known(VMS, name, "VM")
        return work(request, [VMS["demo-1"], VMS["demo-2"]])

    @app.get("/v1/tickets")
    async def tickets(request: Request) -> Any:
        return page_of([TICKET], request, "id")

    @app.delete("/v1/tickets/{id}", status_code=204)
    async def release(id: str) -> Response:
        known({TICKET["id"]: TICKET}, id, "ticket")
        return Response(status_code=204)

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

    @app.get("/v1/networks")
    async def networks(request: Request) -> Any:
        return page_of(list(NETWORKS.values()), request)

    @app.post("/v1/networks", status_code=201)
    async def create_network() -> Any:
        return NETWORKS["public"]

    @app.get("/v1/networks/{name}")
    async def network(name: str) -> Any:
        return known(NETWORKS, name, "network")

    @app.delete("/v1/networks/{name}", status_code=204)
    async def delete_network(name: str) -> Response:
        known(NETWORKS, name, "network")
        return Response(status_code=204)

    @app.get("/v1/networks/{name}/leases")
    async def leases(request: Request) -> Any:
        return page_of(LEASES, request, "address")

    @app.get("/v1/clusters/{name}/forwards")
    async def forwards(request: Request) -> Any:
        return page_of([FORWARD], request, "host_port")

    @app.delete("/v1/clusters/{name}/forwards/{protocol}/{port}", status_code=204)
    async def delete_forward(name: str) -> Response:
        return Response(status_code=204)

    @app.get("/v1/users")
    async def users(request: Request) -> Any:
        return page_of(list(USERS.values()), request)

    @app.post("/v1/users", status_code=201)
    async def create_user(request: Request) -> Any:
        return {**USERS["ann"], "name": (await request.json())["name"]}

    @app.get("/v1/users/{name}")
    async def user(name: str) -> Any:
        return known(USERS, name, "user")

    @app.patch("/v1/users/{name}")
    async def change_user(name: str) -> Any:
        return known(USERS, name, "user")

    @app.delete("/v1/users/{name}", status_code=204)
    async def delete_user(name: str) -> Response:
        known(USERS, name, "user")
        return Response(status_code=204)

    @app.get("/v1/users/{name}/tokens")
    async def tokens(name: str) -> Any:
        known(USERS, name, "user")
        return [TOKEN]

    @app.post("/v1/users/{name}/tokens", status_code=201)
    async def create_token(name: str) -> Any:
        known(USERS, name, "user")
        return {**TOKEN, "secret": SECRET}

    @app.delete("/v1/users/{name}/tokens/{id}", status_code=204)
    async def revoke_token(name: str, id: str) -> Response:
        known({"k3x9": TOKEN}, id, "token")
        return Response(status_code=204)

    @app.get("/v1/operations")
    async def operations(request: Request) -> Any:
        return page_of(list(OPERATIONS.values()), request, "id")

    @app.get("/v1/operations/{id}")
    async def operation(id: str) -> Any:
        return known(OPERATIONS, id, "operation")

    @app.get("/v1/operations/{id}/wait")
    async def wait(id: str, timeout_s: float = 60) -> Any:
        if (found := known(OPERATIONS, id, "operation"))["state"] == "running":
            await asyncio.sleep(timeout_s)
        return found

    @app.post("/v1/operations/{id}/cancel")
    async def cancel(id: str) -> Any:
        if known(OPERATIONS, id, "operation")["state"] != "running":
            raise Conflict(f"operation {id} is over")
        return {**OPERATIONS[id], "state": "cancelled"}

    @app.get("/v1/usage")
    async def usage(request: Request) -> Any:
        return [USAGE]

    @app.get("/v1/audit")
    async def audit() -> Any:
        return DIFFERENCES

    @app.post("/v1/audit")
    async def repair() -> Any:
        return [{**one, "mended": one["mend"] != ""} for one in DIFFERENCES]

    @app.get("/v1/events")
    async def events(request: Request) -> Any:
        """One change a connection; the third says that it forgot, and so does a very old position."""
        after = request.headers.get("Last-Event-ID")
        if after == "1.0":
            raise TooOld("changes before 5.0 are forgotten", advice="list, and begin anew")
        rest = CHANGES if after is None else [c for c in CHANGES if c["id"] > after]
        if not rest:
            body = f"event: error\ndata: {json.dumps(to_problem(TooOld('forgotten')))}\n\n"
        else:
            body = f": here\n\n{event(rest[0])}"
        return Response(body, media_type="text/event-stream")

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
def serving(sock: socket.socket, files: dict[str, bytes], **options: Any) -> Iterator[None]:
    """Serves on a bound socket until the block ends."""
    config = uvicorn.Config(
        fake_app(files), log_level="error", lifespan="off", ws_ping_interval=None, **options
    )
    server = uvicorn.Server(config)
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
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(str(Path(folder, "api.sock")))
        with serving(sock, files):
            yield environment, files
