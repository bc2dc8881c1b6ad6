"""Who sees what was used: each user their own, and an administrator all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from copper.controller.access import asking
from copper.controller.accounts_api import routes
from copper.model.users import Role
from copper.wire.app import new_app
from tests.unit.accounts import Place, asked_by, place, report, use

__all__ = ["place"]


@pytest.fixture
def ask(place: Place) -> Callable[[str, str], tuple[int, list[str]]]:
    place.accounts.add(report(use(cpu_s=3)), 0)

    def asking_as(user: str, path: str) -> tuple[int, list[str]]:
        app = new_app("t", "0")
        app.include_router(routes(place.accounts, place.book, asking))
        role: Role = "admin" if user == "root" else "user"
        answer = TestClient(asked_by(app, user, role)).get(path)
        return answer.status_code, [u["owner"] for u in answer.json()] if answer.is_success else []

    return asking_as


@pytest.mark.parametrize(
    ("user", "path", "status", "owners"),
    [
        ("root", "/v1/usage", 200, ["ann"]),
        ("root", "/v1/usage?user=bob", 200, []),
        ("ann", "/v1/usage?by=user", 200, ["ann"]),
        ("ann", "/v1/usage?user=ann&cluster=demo", 200, ["ann"]),
        ("bob", "/v1/usage", 200, []),
        ("bob", "/v1/usage?cluster=demo", 200, []),
        ("bob", "/v1/usage?user=ann", 404, []),
        ("bob", "/v1/clusters/demo/usage", 404, []),
        ("ann", "/v1/clusters/demo/usage", 200, ["ann"]),
        ("ann", "/v1/clusters/demo/usage?begin=0&end=1", 200, []),
        ("root", "/v1/clusters/demo/usage", 200, ["ann"]),
        ("root", "/v1/clusters/none/usage", 404, []),
        ("root", "/v1/usage?begin=nan", 422, []),
        ("root", "/v1/usage?begin=-1", 422, []),
        ("root", "/v1/usage?by=host", 422, []),
    ],
)
async def test_who_sees_which_usage(
    ask: Callable[[str, str], tuple[int, list[str]]],
    user: str,
    path: str,
    status: int,
    owners: list[str],
) -> None:
    assert await asyncio.to_thread(ask, user, path) == (status, owners)
