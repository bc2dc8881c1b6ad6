"""A store that cannot write: nothing is lost, nothing is half done, and it can be asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from copper.model.api import NewCluster
from copper.model.errors import CopperError, NoRoom
from tests.cluster.fakes import World, until
from tests.cluster.worlds import clone, three


@pytest.mark.parametrize(
    "verb", ["create", "boot", "clone", "ticket", "pause", "suspend", "resume", "kill"]
)
async def test_a_state_that_cannot_be_written_loses_nothing(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at each of the first writes of a verb; afterwards it can be asked again."""
    for nth in range(4):
        async with World(hosts=three()) as world:
            master = await world.boot("a", placement="spread")
            await clone(world, master, 2)
            await world.core.create("root", NewCluster(name="b", image="micro"))
            do: dict[str, Callable[[], Awaitable[object]]] = {
                "create": lambda w=world: w.core.create(  # type: ignore[misc]
                    "root", NewCluster(name="c", image="micro")
                ),
                "boot": lambda w=world: w.core.boot("b"),  # type: ignore[misc]
                "clone": lambda w=world: clone(w, "a-0", 2),  # type: ignore[misc]
                "ticket": lambda w=world: w.ticket("a-0"),  # type: ignore[misc]
                "pause": lambda w=world: w.core.pause("a"),  # type: ignore[misc]
                "suspend": lambda w=world: w.core.suspend("a"),  # type: ignore[misc]
                "resume": lambda w=world: w.core.resume("a"),  # type: ignore[misc]
                "kill": lambda w=world: w.core.kill("a"),  # type: ignore[misc]
            }
            if verb == "resume":
                await world.core.suspend("a")
            writes = 0
            commit = world.book.store.commit

            async def full(nth: int = nth, commit: object = commit, **what: object) -> int:
                nonlocal writes
                if any(isinstance(key, str) and "/" in key for key in what.get("put", ())):  # type: ignore[attr-defined]
                    writes += 1
                    if writes == nth + 1:
                        raise NoRoom("the disk is full")
                return await commit(**what)  # type: ignore[operator,no-any-return]

            monkeypatch.setattr(world.book.store, "commit", full)
            failed = (await asyncio.gather(do[verb](), return_exceptions=True))[0]
            monkeypatch.setattr(world.book.store, "commit", commit)
            if isinstance(failed, CopperError):
                await until(
                    lambda: not any(vm.state in ("starting", "ending") for vm in world.book.vms())
                )
                world.agree()
                assert world.book.cluster("a").intent == ""
                await do[verb]()
            world.agree()
            assert world.book.cluster("a").intent == ""


async def test_a_reservation_that_cannot_be_written_is_free_at_once() -> None:
    async with World(room=3) as world:
        master = await world.boot("a")
        commit = world.book.store.commit

        async def full(**what: object) -> int:
            raise NoRoom("the disk is full")

        world.book.store.commit = full  # type: ignore[method-assign]
        with pytest.raises(NoRoom, match="full"):
            await world.ticket(master, maxcpus=100)
        world.book.store.commit = commit  # type: ignore[method-assign]
        assert len(world.book.tickets()) == 1
        assert len(await clone(world, master, 2)) == 2


async def test_unused_tickets_go_on_expiring_after_a_write_that_failed() -> None:
    async with World(ticket_expires_s=0.3) as world:
        master = await world.boot("a")
        await world.ticket(master)
        commit = world.book.store.commit
        failed = asyncio.Event()

        async def full(**what: object) -> int:
            failed.set()
            raise NoRoom("the disk is full")

        world.book.store.commit = full  # type: ignore[method-assign]
        await failed.wait()
        world.book.store.commit = commit  # type: ignore[method-assign]
        await until(lambda: len(world.book.tickets()) == 1)
