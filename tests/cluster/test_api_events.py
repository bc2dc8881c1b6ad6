"""The stream of changes: in order, resumed, one's own only, and explicit about what it cannot tell."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from copper.controller.rows import vm_key
from copper.model.errors import BadInput, TooOld
from copper.model.users import Principal
from copper.store.memory import MemoryStore
from tests.cluster.fakes import WAIT_S
from tests.cluster.front import Served, serving, vm_of

ROOT = Principal(name="root", role="admin")
NEW = {"name": "a", "image": "micro"}


class Reader:
    """A reader of one stream, event by event."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream

    async def event(self) -> dict[str, str]:
        """The next, with its fields; a comment is the field without a name."""
        async with asyncio.timeout(WAIT_S):
            text = (await anext(self._stream)).decode()
        assert text.endswith("\n\n")
        lines = [line.partition(": ") for line in text.rstrip("\n").split("\n")]
        return {name.rstrip(":"): value for name, _, value in lines}

    async def change(self) -> Any:
        """The next change, whatever heartbeats are before it."""
        while "data" not in (event := await self.event()):
            continue
        assert event.get("event") is None, event
        change = json.loads(event["data"])
        assert change["id"] == event["id"]
        return change

    async def changes(self, count: int) -> list[tuple[str, str, str]]:
        found = [await self.change() for _ in range(count)]
        return [(one["kind"], one["name"], one["change"]) for one in found]


@contextlib.asynccontextmanager
async def reading(
    served: Served,
    who: Principal = ROOT,
    after: str = "",
    kinds: tuple[str, ...] = ("cluster", "vm", "ticket", "user"),
    cluster: str | None = None,
    check: Any = lambda: None,
) -> AsyncIterator[Reader]:
    stream = await served.front.events.stream(who, after, kinds, cluster, check)
    try:
        yield Reader(stream)
    finally:
        await stream.aclose()  # type: ignore[attr-defined]


async def some_changes(client: Any) -> None:
    await client.post("/v1/clusters", json=NEW)
    await client.post("/v1/clusters/a/boot")
    await client.post("/v1/vms/a-0/clone", json={"count": 2})
    await client.post("/v1/vms/a-1/kill")


SOME = [
    ("cluster", "a", "put"),
    ("vm", "a-0", "put"),
    ("vm", "a-1", "put"),
    ("vm", "a-2", "put"),
    ("vm", "a-1", "deleted"),
]


async def test_changes_come_in_order_with_what_things_are() -> None:
    async with serving() as served, reading(served) as reader:
        await some_changes(served.root)
        assert await reader.changes(5) == SOME
        await served.root.post("/v1/vms/a-0/tickets", json={"maxcpus": 1})
        ticket = await reader.change()
        assert ticket["body"]["holder"] == 0
        await served.root.post("/v1/clusters", json={**NEW, "name": "b"})
        cluster = await reader.change()
        assert cluster["body"] == (await served.root.get("/v1/clusters/b")).json()


async def test_a_reader_goes_on_where_it_was_and_sees_each_once() -> None:
    async with serving() as served:
        await some_changes(served.root)
        async with reading(served, after="0") as reader:
            every = [await reader.change() for _ in range(5)]
        assert [(one["kind"], one["name"], one["change"]) for one in every] == SOME
        for number, one in enumerate(every[:-1]):
            async with reading(served, after=one["id"]) as reader:
                assert await reader.change() == every[number + 1]


async def test_a_stream_says_at_once_where_it_is() -> None:
    async with serving() as served:
        await served.root.post("/v1/clusters", json=NEW)
        async with reading(served) as reader:
            position = (await reader.event())["id"]
        await served.root.post("/v1/clusters/a/boot")
        async with reading(served, after=position) as reader:
            assert await reader.changes(1) == [("vm", "a-0", "put")]


async def test_operations_are_followed_by_their_events() -> None:
    async with serving() as served, reading(served, kinds=("operation",)) as reader:
        await served.root.post("/v1/clusters", json=NEW)
        await served.root.post("/v1/clusters/a/boot")
        states = [(await reader.change())["body"]["state"] for _ in range(2)]
        assert states == ["running", "done"]


async def test_filters_show_one_virtual_cluster_or_one_kind() -> None:
    async with serving() as served:
        for name in ("a", "b"):
            await served.root.post("/v1/clusters", json={**NEW, "name": name})
            await served.root.post(f"/v1/clusters/{name}/boot")
            await served.root.post(f"/v1/vms/{name}-0/kill")
        async with reading(served, after="0", cluster="b") as reader:
            assert await reader.changes(3) == [
                ("cluster", "b", "put"), ("vm", "b-0", "put"), ("vm", "b-0", "deleted"),
            ]  # fmt: skip
        async with reading(served, after="0", kinds=("cluster",)) as reader:
            assert await reader.changes(2) == [("cluster", "a", "put"), ("cluster", "b", "put")]


async def test_users_see_their_own_and_what_was_deleted_of_it() -> None:
    async with serving() as served:
        bob = await served.user("bob")
        await served.user("eve")
        await served.root.post("/v1/clusters", json={**NEW, "name": "not-bobs"})
        await some_changes(bob)
        ticket = (await bob.post("/v1/vms/a-0/tickets", json={"maxcpus": 1})).json()["id"]
        await bob.delete(f"/v1/tickets/{ticket}")
        await bob.post("/v1/clusters/a/kill")
        await bob.delete("/v1/clusters/a")
        await served.root.delete("/v1/clusters/not-bobs")
        await served.root.delete("/v1/users/eve")
        await served.root.patch("/v1/users/bob", json={"quota": {"vms": 9}})
        async with reading(served, Principal(name="bob", role="user"), after="0") as reader:
            seen = await reader.changes(12)
        assert seen == [
            ("user", "bob", "put"),
            *SOME,
            ("ticket", ticket, "put"),
            ("ticket", ticket, "deleted"),
            ("vm", "a-0", "deleted"),
            ("vm", "a-2", "deleted"),
            ("cluster", "a", "deleted"),
            ("user", "bob", "put"),
        ]


async def test_a_name_that_is_given_again_shows_nothing_of_the_new_owner_s() -> None:
    async with serving() as served:
        bob, eve = await served.user("bob"), await served.user("eve")
        await bob.post("/v1/clusters", json=NEW)
        await bob.delete("/v1/clusters/a")
        await eve.post("/v1/clusters", json=NEW)
        await eve.post("/v1/clusters/a/boot")
        kinds = ("cluster", "vm")
        async with reading(
            served, Principal(name="bob", role="user"), after="0", kinds=kinds
        ) as reader:
            body = (await reader.change())["body"]
            assert (body["owner"], body["vms"]) == ("bob", 0)
            assert await reader.changes(1) == [("cluster", "a", "deleted")]


async def test_what_cannot_be_told_after_a_restart_is_said_and_not_skipped() -> None:
    store = MemoryStore()
    async with serving(store) as served:
        bob = await served.user("bob")
        await some_changes(bob)
        ticket = (await bob.post("/v1/vms/a-0/tickets", json={"maxcpus": 1})).json()["id"]
        position = str(await store.revision())
        await bob.delete(f"/v1/tickets/{ticket}")
    async with serving(store) as served:
        who = Principal(name="bob", role="user")
        async with reading(served, who, after=position) as reader:
            await reader.event()
            event = await reader.event()
            assert event["event"] == "error"
            assert json.loads(event["data"])["code"] == "too-old"
        async with reading(served, after=position) as reader:
            assert await reader.changes(1) == [("ticket", ticket, "deleted")]


async def test_secrets_are_never_shown() -> None:
    async with serving() as served:
        bob = await served.user("bob")
        await served.root.post("/v1/users/bob/tokens", json={}, headers={"idempotency-key": "k"})
        await bob.post("/v1/clusters", json=NEW, headers={"idempotency-key": "k"})
        async with reading(served, after="0", kinds=()) as reader:
            assert await reader.changes(2) == [("user", "bob", "put"), ("cluster", "a", "put")]


async def test_a_position_that_is_forgotten_or_never_was_is_refused_before_the_stream() -> None:
    async with serving(MemoryStore(history=4)) as served:
        await some_changes(served.root)
        for after in ("0", "1.0", "999999", "999999.3"):
            with pytest.raises(TooOld):
                async with reading(served, after=after):
                    pass
            answer = await served.root.get("/v1/events", headers={"last-event-id": after})
            assert (answer.status_code, answer.json()["code"]) == (410, "too-old")


@pytest.mark.parametrize("after", ["x", "1.", ".1", "-1", "1.x", "1e3", "9" * 30, "١"])
async def test_what_is_no_position_is_named(after: str) -> None:
    async with serving() as served:
        with pytest.raises(BadInput):
            async with reading(served, after=after):
                pass


async def test_a_slow_reader_is_told_that_it_fell_behind() -> None:
    async with serving(MemoryStore(history=4)) as served, reading(served) as reader:
        await reader.event()
        first = asyncio.create_task(reader.change())
        await served.root.post("/v1/clusters", json=NEW)
        await first
        for vmid in range(20):
            await served.book.commit(put={vm_key(f"a-{vmid}"): vm_of("a", vmid)})
        seen = []
        while (event := await reader.event()).get("event") != "error":
            seen.append(event)
        assert json.loads(event["data"])["code"] == "too-old"
        assert len(seen) < 20
        with pytest.raises(StopAsyncIteration):
            await reader.event()


async def test_a_silent_stream_has_heartbeats_that_say_where_it_is() -> None:
    async with serving() as served:
        served.front.events._heartbeat_s = 0.01
        async with reading(served, kinds=("user",)) as reader:
            began = (await reader.event())["id"]
            await served.root.post("/v1/clusters", json=NEW)
            while (beat := await reader.event())["id"] == began:
                assert "data" not in beat
            assert "data" not in beat


async def test_a_stream_ends_with_its_token() -> None:
    async with serving() as served:
        secret = await served.secret("bob")
        who, token = served.access.of_secret(secret)
        assert token is not None

        def check() -> None:
            served.access.of_secret(secret)

        async with reading(served, who, check=check) as reader:
            await reader.event()
            await served.front.users.revoke("bob", token.id)
            await served.root.post("/v1/clusters", json={**NEW, "owner": "bob"})
            event = await reader.event()
            assert (event["event"], json.loads(event["data"])["code"]) == ("error", "unauthorized")


async def test_a_bad_filter_is_named() -> None:
    async with serving() as served:
        for query in ("kind=token", "kind=reply", "sort=name"):
            answer = await served.root.get(f"/v1/events?{query}")
            assert answer.status_code == 422, query
