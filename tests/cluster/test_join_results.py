"""What clones that joined have left, until it is collected: over restarts, within bounds, gone with its reader."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from copper.controller import joins
from copper.model.api import VmEnded
from copper.model.errors import BadInput, Conflict, CopperError, NoRoom, NotFound
from copper.store.memory import MemoryStore
from tests.cluster.fakes import FakeHost, World
from tests.cluster.worlds import begun, forked, results, still


async def test_it_stays_until_it_is_collected() -> None:
    async with World() as world:
        master, ticket = await forked(world, 1)
        await world.call("a-1", "join", status=3)
        assert [one.id for one in world.book.tickets()] == [world.book.vm(master).ticket]
        for _ in range(2):  # an answer may be lost
            answer = await world.call(master, "join-wait", ticket=ticket, timeout_ms=0)
            assert answer == {"clones": [{"vmid": 1, "status": 3, "file": None}]}
        await world.call(master, "join-collected", ticket=ticket)
        await world.call(master, "join-collected", ticket=ticket)
        assert results(world) == []
        with pytest.raises(NotFound, match="join: there is no ticket"):
            await world.call(master, "join-wait", ticket=ticket, timeout_ms=0)


async def test_files_that_nobody_collects_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "FILES_MOST", 100_000)
    async with World() as world:
        master, ticket = await forked(world, 2)
        most = base64.b64encode(bytes(49_152)).decode()
        await world.call("a-1", "join", file=most)
        with pytest.raises(NoRoom, match="join: VM 0 has"):
            await world.call("a-2", "join", file=most)
        await world.call("a-2", "join", status=1)
        await world.call(master, "join-wait", ticket=ticket)
        await world.call(master, "join-collected", ticket=ticket)
        assert world.core.results.files("a", 0) == 0
        assert not world.core.results._files and not world.core.results._rows


async def test_results_that_nobody_collects_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "KEPT_MOST", 20)
    async with World() as world:
        master = await world.boot()
        for _ in range(20):
            await world.call(master, "clone", count=4)
            await world.call(master, "killall")
            assert len(results(world)) <= 20
        ticket = (await world.call(master, "clone", count=4))["ticket"]
        await world.call(master, "killall")
        assert len((await world.call(master, "join-wait", ticket=ticket))["clones"]) == 4


async def test_a_long_answer_comes_in_pages() -> None:
    async with World() as world:
        master, ticket = await forked(world, 9)
        for vmid in range(1, 10):
            file = base64.b64encode(bytes([vmid]) * 40_000).decode()
            await world.call(f"a-{vmid}", "join", status=vmid, file=file)
        seen: list[dict[str, Any]] = []
        args: dict[str, Any] = {}
        while True:
            page = await world.call(master, "join-wait", ticket=ticket, timeout_ms=0, **args)
            assert len(str(page)) < 250_000
            seen += page["clones"]
            if "next" not in page:
                break
            args = {"after": page["next"]}
        assert [row["status"] for row in seen] == list(range(1, 10))
        assert base64.b64decode(seen[8]["file"]) == b"\t" * 40_000
        with pytest.raises(BadInput, match="after"):
            await world.call(master, "join-wait", ticket=ticket, after="x")


async def test_results_wait_for_a_controller_that_begins_again() -> None:
    store, host = MemoryStore(), FakeHost()
    async with World(store=store, hosts=[host]) as world:
        _, ticket = await forked(world)
        await world.call("a-1", "join", status=1, file="AAEC")
        await world.call("a-2", "join", report=False)
    host.running.pop("a-3")  # while nobody looks
    async with World(store=store, hosts=[host]) as world:
        answer = await world.call("a-0", "join-wait", ticket=ticket, timeout_ms=20_000)
        assert answer["clones"] == [
            {"vmid": 1, "status": 1, "file": "AAEC"},
            {"vmid": 3, "status": -1, "file": None},
        ]


async def test_a_controller_that_is_killed_when_a_clone_has_joined_ends_it() -> None:
    store, host = MemoryStore(), FakeHost()
    async with World(store=store, hosts=[host]) as world:
        _, ticket = await forked(world, 1)
        host.fail = {"end"}
        with pytest.raises(CopperError):
            await world.call("a-1", "join", status=5)
        assert world.book.vm("a-1").state == "ending"
    host.fail = set()
    async with World(store=store, hosts=[host]) as world:
        answer = await world.call("a-0", "join-wait", ticket=ticket, timeout_ms=20_000)
        assert answer == {"clones": [{"vmid": 1, "status": 5, "file": None}]}
        world.agree()


async def test_a_caller_that_was_suspended_still_gets_them() -> None:
    async with World() as world:
        master, ticket = await forked(world)
        await world.call("a-1", "join", status=1)
        asked = begun(world, master, "join-wait", ticket=ticket)
        await still()
        asked.cancel()  # its host agent lets go of what a suspended VM asked
        await world.core.suspend("a")
        with pytest.raises(Conflict, match="suspended"):
            await world.call("a-2", "join", status=2)
        await world.core.resume("a")
        again = begun(world, master, "join-wait", ticket=ticket)
        await world.call("a-2", "join", status=2)
        await world.call("a-3", "join", status=3)
        assert [row["status"] for row in (await again)["clones"]] == [1, 2, 3]


async def test_results_go_with_who_could_collect_them() -> None:
    async with World() as world:
        await forked(world, 2)
        await forked(world, 2, "a-1")
        await world.call("a-3", "join", status=1)
        assert results(world) == [(3, 1)]
        await world.call("a-0", "kill", vmids=[1])
        assert results(world) == [(1, -1)]
        await world.call("a-4", "join", status=1)  # its caller is gone: nobody is told
        assert results(world) == [(1, -1)]
        await world.core.kill("a")
        assert results(world) == []
        assert not world.core.results._rows


async def test_results_go_with_a_caller_that_dies_and_a_new_master_has_none() -> None:
    async with World() as world:
        await forked(world, 2)
        await world.call("a-1", "join", status=1)
        world.host.running.pop("a-0")
        await world.core.ended(VmEnded(vm="a-0", reason="its QEMU was killed"))
        assert results(world) == []
        await world.call("a-2", "join", status=1)
        await world.core.kill("a")
        await world.core.boot("a")
        assert results(world) == []


async def test_a_fork_that_fails_leaves_no_results() -> None:
    async with World() as world:
        master = await world.boot()
        world.host.fail = {"thaw a-2"}
        with pytest.raises(CopperError):
            await world.call(master, "clone", count=4)
        assert results(world) == []
