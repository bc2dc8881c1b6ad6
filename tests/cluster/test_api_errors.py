"""Every error is a problem with a stable code, whatever was sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from copper.openapi import FILE, described
from tests.cluster.front import serving

JSON = {"content-type": "application/json"}
PLAIN = {"content-type": "text/plain"}
DEEP = b'{"name": ' + b"[" * 100_000


async def _chunks() -> AsyncIterator[bytes]:
    for _ in range(30):
        yield b"x" * 50_000


@pytest.mark.parametrize(
    ("method", "path", "more", "status", "code"),
    [
        ("GET", "/v1/nothing", {}, 404, "not-found"),
        ("GET", "/", {}, 404, "not-found"),
        ("GET", "/v1/clusters/", {}, 404, "not-found"),
        ("GET", "/v1/clusters/none", {}, 404, "not-found"),
        ("GET", "/v1/vms/%00%ff", {}, 404, "not-found"),
        ("GET", "/v1/operations/none/wait?timeout_s=0", {}, 404, "not-found"),
        ("PUT", "/v1/clusters", {}, 405, "bad-input"),
        ("BREW", "/v1/clusters", {}, 405, "bad-input"),
        ("POST", "/v1/clusters", {}, 422, "bad-input"),
        ("POST", "/v1/clusters", {"content": b"{", "headers": JSON}, 422, "bad-input"),
        ("POST", "/v1/clusters", {"content": b"\xff\xfe", "headers": JSON}, 422, "bad-input"),
        ("POST", "/v1/clusters", {"content": DEEP, "headers": JSON}, 422, "bad-input"),
        ("POST", "/v1/clusters", {"content": b"[]", "headers": JSON}, 422, "bad-input"),
        ("POST", "/v1/clusters", {"content": b"{}", "headers": PLAIN}, 415, "bad-input"),
        ("POST", "/v1/clusters", {"content": b"{}"}, 415, "bad-input"),
        ("POST", "/v1/clusters", {"json": {"name": "x"}}, 422, "bad-input"),
        ("POST", "/v1/clusters", {"json": {"name": "X!", "image": "m"}}, 422, "bad-input"),
        (
            "POST",
            "/v1/clusters",
            {"json": {"name": "x", "image": "m", "colour": "red"}},
            422,
            "bad-input",
        ),
        ("POST", "/v1/clusters", {"json": {"name": "x", "image": "none"}}, 404, "not-found"),
        ("POST", "/v1/clusters", {"content": b"x" * (1 << 20) + b"x"}, 413, "bad-input"),
        ("POST", "/v1/nothing", {"content": b"x" * (1 << 20) + b"x"}, 413, "bad-input"),
        ("POST", "/v1/clusters", {"content": _chunks, "headers": JSON}, 413, "bad-input"),
        ("GET", "/v1/operations/x/wait?timeout_s=nan", {}, 422, "bad-input"),
        ("GET", "/v1/operations/x/wait?timeout_s=1e9", {}, 422, "bad-input"),
    ],
)
async def test_it_is_a_problem(
    method: str, path: str, more: dict[str, Any], status: int, code: str
) -> None:
    async with serving() as served:
        if callable(more.get("content")):
            more = {**more, "content": more["content"]()}
        answer = await served.root.request(method, path, **more)
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (status, code), problem
        assert problem["status"] == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["detail"] and "\n" not in problem["detail"]
        assert "Traceback" not in answer.text


async def test_a_wrong_method_says_which_are_right() -> None:
    async with serving() as served:
        answer = await served.root.patch("/v1/clusters/a")
        assert answer.headers["allow"] == "DELETE, GET"


async def test_a_body_at_the_limit_is_read() -> None:
    async with serving() as served:
        body = json.dumps({"name": "x", "image": "m"}).encode()
        body += b" " * ((1 << 20) - len(body))
        answer = await served.root.post("/v1/clusters", content=body, headers=JSON)
        assert answer.status_code == 201


async def test_what_nobody_foresaw_is_a_problem_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving() as served:

        def broken() -> Any:
            raise KeyError("secretly")

        monkeypatch.setattr(served.core, "host_facts", broken)
        answer = await served.root.get("/v1/hosts")
        assert (answer.status_code, answer.json()["code"]) == (500, "failed")
        assert "Traceback" not in answer.text


def test_the_description_is_not_stale() -> None:
    from copper.controller.api.document import text_of

    assert FILE.read_text() == text_of(described()), "run python -m copper.openapi"


async def test_the_description_is_served_and_says_who_may_ask() -> None:
    async with serving() as served:
        api = (await served.root.get("/v1/openapi.json")).json()
        assert api == (await (await served.user("bob")).get("/v1/openapi.json")).json()
        for path, operations in api["paths"].items():
            for method, operation in operations.items():
                assert operation["operationId"] and operation["summary"], path
                assert "x-roles" in operation, path
                for status, answer in operation["responses"].items():
                    if int(status) >= 400:
                        assert list(answer["content"]) == ["application/problem+json"]
                names = [one["name"] for one in operation.get("parameters", [])]
                changes = method != "get" and operation["x-roles"] != ["host"]
                assert ("Idempotency-Key" in names) == changes, path
        assert api["paths"]["/v1/users"]["get"]["x-roles"] == ["admin"]
        assert api["paths"]["/v1/health"]["get"]["x-roles"] == []
