"""Long work: progress, waiting, cancelling, what a crash leaves, and what is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from copper.controller import operations as module
from copper.controller.book import Book
from copper.controller.rows import operation_key
from copper.model.errors import NoRoom
from copper.model.operations import Operation
from copper.store.memory import MemoryStore
from tests.cluster.fakes import WAIT_S
from tests.cluster.front import Served, serving

ASYNC = {"prefer": "respond-async"}


async def begun(served: Served, verb: str = "boot") -> Any:
    """An operation under way, which the core holds."""
    await served.root.post("/v1/clusters", json={"name": "a", "image": "micro"})
    served.core.hold = asyncio.Event()
    answer = await served.root.post(f"/v1/clusters/a/{verb}", headers=ASYNC)
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/operations/{answer.json()['id']}"
    await served.core.held.wait()
    return answer.json()


async def shown(served: Served, id: str) -> Any:
    return (await served.root.get(f"/v1/operations/{id}")).json()


async def test_an_operation_is_followed_to_its_end() -> None:
    async with serving() as served:
        operation = await begun(served)
        waited = await served.root.get(f"/v1/operations/{operation['id']}/wait?timeout_s=0.05")
        under_way = waited.json()
        assert (under_way["state"], under_way["done"], under_way["parts"]) == ("running", 3, 4)
        assert served.core.hold is not None
        served.core.hold.set()
        ended = (await served.root.get(f"/v1/operations/{operation['id']}/wait")).json()
        assert (ended["state"], ended["done"], ended["parts"]) == ("done", 4, 4)
        assert ended["result"]["name"] == "a-0"
        assert ended["ended"] >= ended["created"]


async def test_who_waits_has_the_result_and_an_operation_that_is_kept() -> None:
    async with serving() as served:
        await served.root.post("/v1/clusters", json={"name": "a", "image": "micro"})
        await served.root.post("/v1/clusters/a/boot")
        clones = await served.root.post("/v1/vms/a-0/clone", json={"count": 3})
        listed = (await served.root.get("/v1/operations?kind=clone")).json()
        assert [one["result"] for one in listed] == [clones.json()]
        gone = await served.root.post("/v1/vms/a-3/kill")
        assert gone.status_code == 204
        kinds = [one["kind"] for one in (await served.root.get("/v1/operations")).json()]
        assert kinds == ["boot", "clone", "kill"]


async def test_a_cancel_undoes_and_answers_whoever_waits() -> None:
    async with serving() as served:
        operation = await begun(served)
        waiting = asyncio.create_task(served.root.get(f"/v1/operations/{operation['id']}/wait"))
        cancelled = await served.root.post(f"/v1/operations/{operation['id']}/cancel")
        assert cancelled.json()["state"] == "cancelled"
        assert served.core.undone == ["boot a"]
        assert (await waiting).json() == cancelled.json()
        again = await served.root.post(f"/v1/operations/{operation['id']}/cancel")
        assert again.json() == cancelled.json()
        assert (await served.root.get("/v1/vms")).json() == []


async def test_who_waits_for_the_result_of_a_cancelled_one_is_told() -> None:
    async with serving() as served:
        await served.root.post("/v1/clusters", json={"name": "a", "image": "micro"})
        served.core.hold = asyncio.Event()
        asked = asyncio.create_task(served.root.post("/v1/clusters/a/boot"))
        await served.core.held.wait()
        found = (await served.root.get("/v1/operations")).json()
        await served.root.post(f"/v1/operations/{found[0]['id']}/cancel")
        answer = await asked
        assert answer.status_code == 409
        assert "it was cancelled" in answer.json()["detail"]


async def test_an_operation_that_has_ended_cannot_be_cancelled() -> None:
    async with serving() as served:
        operation = await begun(served)
        assert served.core.hold is not None
        served.core.hold.set()
        await served.root.get(f"/v1/operations/{operation['id']}/wait")
        answer = await served.root.post(f"/v1/operations/{operation['id']}/cancel")
        assert answer.status_code == 409


async def test_who_goes_away_does_not_end_it() -> None:
    async with serving() as served:
        await served.root.post("/v1/clusters", json={"name": "a", "image": "micro"})
        served.core.hold = asyncio.Event()
        asked = asyncio.create_task(served.root.post("/v1/clusters/a/boot"))
        await served.core.held.wait()
        found = (await served.root.get("/v1/operations")).json()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        served.core.hold.set()
        ended = (await served.root.get(f"/v1/operations/{found[0]['id']}/wait")).json()
        assert ended["state"] == "done"


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [(NoRoom("no room here"), 507, "no room here"), (KeyError("x"), 500, "unexpected: KeyError")],
)
async def test_a_failure_is_the_request_s_and_the_operation_s(
    error: Exception, status: int, says: str
) -> None:
    async with serving() as served:
        await served.root.post("/v1/clusters", json={"name": "a", "image": "micro"})
        served.core.broken = error
        answer = await served.root.post("/v1/clusters/a/boot")
        assert answer.status_code == status
        operation = (await served.root.get("/v1/operations")).json()[0]
        assert operation["state"] == "failed"
        assert operation["problem"] == answer.json()
        assert says in operation["problem"]["detail"]


async def test_progress_is_written_down_for_those_who_follow_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PROGRESS_S", 0.0)
    store = MemoryStore()
    async with serving(store) as served:
        operation = await begun(served)
        async with asyncio.timeout(WAIT_S):
            while True:
                await asyncio.sleep(0)
                entry = await store.get(operation_key(operation["id"]))
                assert entry is not None
                if entry.value["done"]:
                    break
        assert entry.value["parts"] == 4


async def test_what_a_crash_cut_off_has_failed_and_says_where_to_look() -> None:
    store = MemoryStore()

    async def crashed(book: Book) -> None:
        operation = Operation(
            id="1", kind="clone", cluster="a", owner="root", state="running", created=1.0
        )
        await book.commit(put={operation_key("1"): operation})

    async with serving(store, crashed) as served:
        operation = await shown(served, "1")
        assert operation["state"] == "failed"
        assert "Copper ended while it was at this" in operation["problem"]["detail"]
        assert "gc-vc show a" in operation["problem"]["advice"]
        waited = await served.root.get("/v1/operations/1/wait")
        assert waited.json() == operation


async def test_the_end_of_copper_undoes_what_is_under_way() -> None:
    store = MemoryStore()
    async with serving(store) as served:
        operation = await begun(served)
    assert served.core.undone == ["boot a"]
    async with serving(store) as served:
        ended = await shown(served, operation["id"])
        assert ended["state"] == "cancelled"
        assert "Copper was ended" in ended["problem"]["detail"]


async def test_the_oldest_ended_ones_go_and_those_under_way_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "KEPT_MOST", 3)
    store = MemoryStore()
    async with serving(store) as served:
        operation = await begun(served)
        served.core.hold = None
        for _ in range(6):
            await served.root.post("/v1/clusters/a/pause")
        listed = (await served.root.get("/v1/operations")).json()
        assert [one["kind"] for one in listed] == ["boot", "pause", "pause", "pause"]
        assert len(await store.list("operations/")) == 4
        assert listed[0]["id"] == operation["id"]


async def test_a_day_later_they_go(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    async with serving(store) as served:
        await served.root.post("/v1/clusters", json={"name": "a", "image": "micro"})
        for _ in range(3):
            await served.root.post("/v1/clusters/a/pause")
        last = (await served.root.get("/v1/operations")).json()[-1]
        monkeypatch.setattr(module, "now", lambda: last["ended"] + 86_400)
        await served.front.operations.tidy()
        assert len(await store.list("operations/")) == 1


async def test_a_cancel_at_once_is_no_different() -> None:
    async with serving() as served:
        await served.root.post("/v1/clusters", json={"name": "a", "image": "micro"})
        running = await served.front.operations.begin(
            "boot", "a", "root", lambda progress: served.core.boot("a", progress)
        )
        operation = await served.front.operations.cancel(running.operation.id)
        assert operation.state == "cancelled"
