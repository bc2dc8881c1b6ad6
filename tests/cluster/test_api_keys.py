"""Idempotency keys: one effect and one answer, for repeats at once, later, and after a restart."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from copper.controller import replies as module
from copper.controller.rows import Reply
from copper.model.errors import NoRoom
from copper.store.memory import MemoryStore
from tests.cluster.front import serving

NEW = {"name": "a", "image": "micro"}


def key(text: str = "k", **more: str) -> dict[str, str]:
    return {"idempotency-key": text, **more}


async def test_the_same_request_is_answered_the_same_byte_for_byte() -> None:
    async with serving() as served:
        first, again = [
            await served.root.post("/v1/clusters", json=NEW, headers=key()) for _ in range(2)
        ]
        assert (first.status_code, first.content) == (again.status_code, again.content)
        assert first.status_code == 201
        assert (await served.root.post("/v1/clusters", json=NEW)).status_code == 409


async def test_an_answer_outlives_a_restart() -> None:
    store = MemoryStore()
    async with serving(store) as served:
        first = await served.root.post("/v1/clusters", json=NEW, headers=key())
    async with serving(store) as served:
        again = await served.root.post("/v1/clusters", json=NEW, headers=key())
    assert (first.status_code, first.content) == (again.status_code, again.content)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/clusters", {**NEW, "name": "b"}),
        ("POST", "/v1/clusters/a/boot", None),
        ("DELETE", "/v1/clusters/a", None),
        ("POST", "/v1/users", NEW),
    ],
)
async def test_another_request_with_the_same_key_is_refused(
    method: str, path: str, body: Any
) -> None:
    async with serving() as served:
        await served.root.post("/v1/clusters", json=NEW, headers=key())
        answer = await served.root.request(method, path, json=body, headers=key())
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert "used for another request" in answer.json()["detail"]


async def test_a_key_is_its_user_s_own() -> None:
    async with serving() as served:
        bob, eve = await served.user("bob"), await served.user("eve")
        await bob.post("/v1/clusters", json=NEW, headers=key())
        answer = await eve.post("/v1/clusters", json={**NEW, "name": "b"}, headers=key())
        assert answer.json()["owner"] == "eve"


async def test_repeats_at_once_wait_for_the_first_and_are_answered_the_same() -> None:
    async with serving() as served:
        await served.root.post("/v1/clusters", json=NEW)
        served.core.hold = asyncio.Event()
        asked = [
            asyncio.create_task(served.root.post("/v1/clusters/a/boot", headers=key()))
            for _ in range(5)
        ]
        await served.core.held.wait()
        other = await served.root.post("/v1/clusters/a/kill", headers=key())
        assert other.status_code == 409
        served.core.hold.set()
        answers = await asyncio.gather(*asked)
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        assert len((await served.root.get("/v1/operations")).json()) == 1


async def test_who_goes_away_does_not_undo_it_and_asks_again() -> None:
    async with serving() as served:
        await served.root.post("/v1/clusters", json=NEW)
        served.core.hold = asyncio.Event()
        asked = asyncio.create_task(served.root.post("/v1/clusters/a/boot", headers=key()))
        await served.core.held.wait()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        again = asyncio.create_task(served.root.post("/v1/clusters/a/boot", headers=key()))
        await asyncio.sleep(0.01)
        served.core.hold.set()
        assert (await again).json()["name"] == "a-0"
        assert len((await served.root.get("/v1/operations")).json()) == 1


async def test_an_error_of_the_work_is_an_answer_too() -> None:
    async with serving() as served:
        await served.root.post("/v1/clusters", json=NEW)
        served.core.broken = NoRoom("there is no room")
        first = await served.root.post("/v1/clusters/a/boot", headers=key())
        served.core.broken = None
        again = await served.root.post("/v1/clusters/a/boot", headers=key())
        assert (first.status_code, again.status_code) == (507, 507)
        assert first.content == again.content
        assert again.headers["content-type"] == "application/problem+json"
        assert (await served.root.post("/v1/clusters/a/boot", headers=key("2"))).is_success


async def test_what_was_refused_before_it_began_uses_no_key_up() -> None:
    async with serving() as served:
        bad = await served.root.post("/v1/clusters", json={"nam": 1}, headers=key())
        assert bad.status_code == 422
        assert (await served.root.post("/v1/clusters", json=NEW, headers=key())).is_success


async def test_an_operation_is_answered_again_with_its_place() -> None:
    async with serving() as served:
        await served.root.post("/v1/clusters", json=NEW)
        headers = key(prefer="respond-async, wait=10")
        first, again = [
            await served.root.post("/v1/clusters/a/boot", headers=headers) for _ in range(2)
        ]
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.content == again.content
        assert first.headers["location"] == again.headers["location"]


async def test_an_empty_answer_is_kept_too() -> None:
    async with serving() as served:
        await served.root.post("/v1/clusters", json=NEW)
        for _ in range(2):
            answer = await served.root.delete("/v1/clusters/a", headers=key())
            assert (answer.status_code, answer.content) == (204, b"")
        assert (await served.root.delete("/v1/clusters/a")).status_code == 404


async def test_a_secret_is_never_written_down_and_not_told_after_a_restart() -> None:
    store = MemoryStore()
    async with serving(store) as served:
        await served.front.users.create(_new_user())
        first, again = [
            await served.root.post("/v1/users/bob/tokens", json={}, headers=key()) for _ in range(2)
        ]
        assert first.content == again.content
        random = first.json()["secret"].split("_", 2)[2]
        assert random not in json.dumps([entry.value for entry in await store.list("")])
    async with serving(store) as served:
        later = await served.root.post("/v1/users/bob/tokens", json={}, headers=key())
        assert later.status_code == 409
        assert len((await served.root.get("/v1/users/bob/tokens")).json()) == 1


def _new_user() -> Any:
    from copper.model.users import NewUser

    return NewUser(name="bob")


async def test_a_day_later_the_key_is_new_and_what_is_old_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    async with serving(store) as served:
        await served.root.post("/v1/clusters", json=NEW, headers=key())
        began = served.book.all("replies", Reply)[0].created
        monkeypatch.setattr(module, "now", lambda: began + 86_400)
        again = await served.root.post("/v1/clusters", json=NEW, headers=key())
        assert again.status_code == 409  # it was done anew
        monkeypatch.setattr(module, "now", lambda: began + 2 * 86_400)
        await served.front.replies.tidy()
        assert await store.list("replies/") == []


async def test_a_user_with_very_many_answers_keeps_the_latest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "KEPT_MOST", 3)
    store = MemoryStore()
    async with serving(store) as served:
        for number in range(6):
            body = {**NEW, "name": f"a{number}"}
            await served.root.post("/v1/clusters", json=body, headers=key(str(number)))
        kept = [entry.key for entry in await store.list("replies/")]
        assert kept == [f"replies/root/{number}" for number in (3, 4, 5)]


async def test_a_new_user_of_an_old_name_gets_none_of_its_answers() -> None:
    async with serving() as served:
        bob = await served.user("bob")
        await bob.post("/v1/clusters", json=NEW, headers=key())
        await served.root.delete("/v1/clusters/a")
        assert (await served.root.delete("/v1/users/bob")).status_code == 204
        bob = await served.user("bob")
        answer = await bob.post("/v1/clusters", json={**NEW, "name": "b"}, headers=key())
        assert answer.status_code == 201


@pytest.mark.parametrize("bad", ["", "two words", "x" * 201, "\x7f", "é".encode("latin-1")])
async def test_a_bad_key_is_named(bad: Any) -> None:
    async with serving() as served:
        headers = [(b"idempotency-key", bad if isinstance(bad, bytes) else bad.encode())]
        answer = await served.root.post("/v1/clusters", json=NEW, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith("Idempotency-Key: expected 1 to 200")
