"""Every route against every wrong role, and what users see of each other: nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute

from copper.controller.access import roles_of
from copper.openapi import described
from tests.cluster.front import Served, serving

ROLES = {"admin", "user", "host"}
SECRETLY_OPEN = {"/v1/health"}


def routes() -> Iterator[tuple[str, str, set[str]]]:
    """Method, path and roles of every route of the controller."""
    for route in described().routes:
        if isinstance(route, APIRoute) and not route.path.startswith("/host/"):
            for method in sorted(route.methods or ()):
                yield method, route.path, set(roles_of(route) or ())


def test_every_route_says_who_may_ask_it() -> None:
    found = list(routes())
    assert len(found) > 40
    assert {path for _, path, roles in found if not roles} == SECRETLY_OPEN
    assert {path for _, path, roles in found if "host" in roles} == {"/v1/calls", "/v1/ended"}


async def _as(served: Served, role: str) -> Any:
    return served.host if role == "host" else await served.user(f"some-{role}", role)


async def test_every_route_refuses_every_wrong_role_whatever_the_body() -> None:
    bodies: list[dict[str, Any]] = [
        {},
        {"json": {}},
        {"content": b"{", "headers": {"content-type": "application/json"}},
        {"json": {}, "headers": {"idempotency-key": "k"}},
    ]
    async with serving() as served:
        there = {(method, r.path) for r in served.app.routes if isinstance(r, APIRoute)
                 for method in r.methods or ()}  # fmt: skip
        clients = {role: await _as(served, role) for role in ROLES}
        refused = 0
        for method, path, roles in routes():
            if (method, path) not in there or not roles:
                continue
            target = path.replace("{name}", "a-0").replace("{id}", "x")
            for role in ROLES - roles:
                for body in bodies:
                    answer = await clients[role].request(method, target, **body)
                    assert answer.status_code == 403, (method, path, role, answer.text)
                    assert answer.json()["code"] == "refused"
                    refused += 1
        assert refused > 200
        assert await served.book.store.list("replies/") == []


@pytest.mark.parametrize(
    "authorization", [None, "Bearer nonsense", "Basic cm9vdDpyb290", "Bearer "]
)
async def test_every_path_wants_a_token(authorization: str | None) -> None:
    async with serving() as served:
        client = served.client()
        headers = {} if authorization is None else {"authorization": authorization}
        paths = {path for _, path, roles in routes() if roles}
        for path in [*paths, "/v1/nothing", "/", "/host/v1/vms", "/metrics"]:
            for method in ("GET", "POST", "DELETE"):
                answer = await client.request(method, path, headers=headers, json={})
                assert answer.status_code == 401, (method, path)
                assert answer.json()["code"] == "unauthorized"
                assert answer.headers["www-authenticate"] == "Bearer"
        assert (await client.get("/v1/health", headers=headers)).status_code == 200


async def test_an_application_without_a_listener_answers_nobody() -> None:
    async with serving() as served:
        answer = await served.client(app=served.app).get("/v1/vms")
        assert answer.status_code == 401


async def two_users(served: Served) -> tuple[Any, Any]:
    """Bob with the virtual cluster bobs, a VM, a ticket and an operation; Eve with nothing."""
    bob, eve = await served.user("bob"), await served.user("eve")
    assert (await bob.post("/v1/clusters", json={"name": "bobs", "image": "micro"})).is_success
    assert (await bob.post("/v1/clusters/bobs/boot")).is_success
    return bob, eve


async def test_what_another_owns_is_not_there_and_is_answered_as_if_it_never_was() -> None:
    async with serving() as served:
        bob, eve = await two_users(served)
        ticket = (await bob.post("/v1/vms/bobs-0/tickets", json={"maxcpus": 1})).json()["id"]
        operation = (await bob.get("/v1/operations")).json()[0]["id"]
        for path in (
            "/v1/clusters", "/v1/vms", "/v1/tickets", "/v1/operations", "/v1/clusters?owner=bob",
        ):  # fmt: skip
            assert (await eve.get(path)).json() == []
            assert len((await bob.get(path)).json()) == 1
        asked: list[tuple[str, str, Any]] = [
            ("GET", "/v1/clusters/{c}", None),
            ("DELETE", "/v1/clusters/{c}", None),
            *(("POST", f"/v1/clusters/{{c}}/{verb}", None) for verb in
              ("boot", "kill", "pause", "unpause", "suspend", "resume")),
            ("PUT", "/v1/clusters/{c}/limits", {}),
            ("GET", "/v1/clusters/{c}/login-key", None),
            ("GET", "/v1/vms?cluster={c}", None),
            ("GET", "/v1/tickets?cluster={c}", None),
            ("GET", "/v1/vms/{v}", None),
            ("POST", "/v1/vms/{v}/kill", None),
            ("POST", "/v1/vms/{v}/clone", {"count": 1}),
            ("POST", "/v1/vms/{v}/tickets", {"maxcpus": 1}),
            ("GET", "/v1/tickets/{t}", None),
            ("DELETE", "/v1/tickets/{t}", None),
            ("GET", "/v1/operations/{o}", None),
            ("GET", "/v1/operations/{o}/wait", None),
            ("POST", "/v1/operations/{o}/cancel", None),
            ("GET", "/v1/users/bob", None),
            ("GET", "/v1/users/bob/tokens", None),
            ("DELETE", "/v1/users/bob/tokens/x", None),
        ]  # fmt: skip
        own = {"c": "bobs", "v": "bobs-0", "t": ticket, "o": operation}
        for method, path, body in asked:
            answer = await eve.request(method, path.format(**own), json=body)
            assert answer.status_code == 404, (method, path, answer.text)
            never = {name: f"{value[:-1]}x" for name, value in own.items()}
            missing = await eve.request(method, path.format(**never), json=body)
            said, other = answer.json(), missing.json()
            for name, value in sorted(own.items(), key=lambda one: -len(one[1])):
                said["detail"] = said["detail"].replace(value, name)
                other["detail"] = other["detail"].replace(never[name], name)
            assert said == other, path
        assert (await bob.get("/v1/vms/bobs-0")).json()["state"] == "running"


async def test_an_image_names_own_virtual_clusters_only() -> None:
    async with serving() as served:
        bob, eve = await two_users(served)
        assert (await bob.get("/v1/images")).json()[0]["users"] == ["bobs"]
        assert (await eve.get("/v1/images")).json()[0]["users"] == []
        assert (await served.root.get("/v1/images")).json()[0]["users"] == ["bobs"]


async def test_a_user_makes_for_themselves_and_an_admin_for_whom_they_name() -> None:
    async with serving() as served:
        _, eve = await two_users(served)
        new = {"name": "x", "image": "micro", "owner": "bob"}
        assert (await eve.post("/v1/clusters", json=new)).status_code == 403
        assert (await served.root.post("/v1/clusters", json=new)).json()["owner"] == "bob"
        nobody = await served.root.post("/v1/clusters", json={**new, "owner": "nobody"})
        assert nobody.status_code == 404


async def test_users_know_themselves_and_their_own_tokens() -> None:
    async with serving() as served:
        bob, _ = await two_users(served)
        assert (await bob.get("/v1/whoami")).json() == {"name": "bob", "role": "user"}
        assert (await bob.get("/v1/users/bob")).json()["name"] == "bob"
        tokens = (await bob.get("/v1/users/bob/tokens")).json()
        assert [set(token) for token in tokens] == [{"id", "user", "note", "created", "expires"}]
        gone = await bob.delete(f"/v1/users/bob/tokens/{tokens[0]['id']}")
        assert gone.status_code == 204
        assert (await bob.get("/v1/whoami")).status_code == 401
