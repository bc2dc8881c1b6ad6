"""What is done with a whole virtual cluster is done alone and never by half, whatever comes between."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from copper.model.api import Limits, VmEnded
from copper.model.errors import Conflict, NotFound
from copper.wire import steps
from tests.cluster.fakes import World, until
from tests.cluster.whole import NAMES, Gate, hosts_of, running, six, states, stored

AT_WORK = {
    "pause": "pause.ordered",
    "suspend": "suspend.planned",
    "resume": "resume.planned",
    "kill": "kill.ended",
}


@pytest.mark.parametrize("verb", AT_WORK)
async def test_what_is_changed_as_a_whole_is_left_alone_meanwhile(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with six(3) as world:
        ticket = await world.ticket("a-0")
        if verb == "resume":
            await world.core.suspend("a")
        gate = Gate(AT_WORK[verb])
        monkeypatch.setattr(steps, "hook", gate)
        doing = asyncio.create_task(getattr(world.core, verb)("a"))
        await gate.reached.wait()
        for other in ("pause", "unpause", "suspend", "resume", "boot", "delete"):
            with pytest.raises(Conflict):
                await getattr(world.core, other)("a")
        for call in (
            world.call("a-0", "clone", count=1),
            world.call("a-0", "clone", ticket=ticket),
            world.core.end(["a-3"]),
        ):
            with pytest.raises((Conflict, NotFound)):
                await call
        gate.opened.set()
        await doing
        if verb != "kill":
            assert len(world.book.vms("a")) == 6


@pytest.mark.parametrize("verb", ["pause", "unpause", "suspend", "resume"])
async def test_what_is_being_forked_is_not_changed_as_a_whole(verb: str) -> None:
    async with World() as world:
        master = await world.boot()
        world.host.gate = asyncio.Event()
        fork = asyncio.create_task(world.call(master, "clone", count=2))
        await world.host.at_gate.wait()
        with pytest.raises(Conflict):
            await getattr(world.core, verb)("a")
        world.host.gate.set()
        await fork
        world.agree()


@pytest.mark.parametrize("verb", ["pause", "suspend"])
async def test_a_fork_and_a_whole_verb_do_not_mix_whenever_they_meet(verb: str) -> None:
    for turns in range(30):
        async with World(hosts=hosts_of(2)) as world:
            master = await world.boot("a", placement="spread")
            await world.call(master, "clone", count=1)
            fork = asyncio.create_task(world.call(master, "clone", count=4))
            for _ in range(turns):
                await asyncio.sleep(0)
            outcome = await asyncio.gather(getattr(world.core, verb)("a"), return_exceptions=True)
            made = await asyncio.gather(fork, return_exceptions=True)
            whole = isinstance(outcome[0], list)
            assert whole or isinstance(outcome[0], Conflict)
            assert isinstance(made[0], (dict, Conflict))
            assert len(states(world)) == 1
            if whole:
                assert states(world) == {"paused" if verb == "pause" else "suspended"}
            world.agree()


@pytest.mark.parametrize("verb", ["pause", "suspend", "resume"])
async def test_a_kill_waits_for_what_is_being_done_with_the_whole(verb: str) -> None:
    """It comes after each number of turns of the loop; nothing is left, whatever was half done."""
    for turns in range(0, 24, 2):
        async with World(hosts=hosts_of(3)) as world:
            master = await world.boot("a", placement="spread")
            await world.call(master, "clone", count=5)
            if verb == "resume":
                await world.core.suspend("a")
            doing = asyncio.create_task(getattr(world.core, verb)("a"))
            for _ in range(turns):
                await asyncio.sleep(0)
            await world.core.kill("a")
            await asyncio.gather(doing, return_exceptions=True)
            assert world.book.vms("a") == [] and world.book.cluster("a").intent == ""
            assert running(world) == stored(world) == set()
            world.agree()


@pytest.mark.parametrize(
    "verb", ["pause", "unpause", "suspend", "resume", "kill", "boot", "delete"]
)
async def test_what_is_not_there_is_not_found(verb: str) -> None:
    async with World() as world:
        with pytest.raises(NotFound, match="no virtual cluster 'x'"):
            await getattr(world.core, verb)("x")


@pytest.mark.parametrize(
    ("state", "refused"),
    [
        ("defined", ["pause", "unpause", "suspend", "resume"]),
        ("running", ["boot", "delete"]),
        ("paused", ["boot", "delete", "resume"]),
        ("suspended", ["boot", "delete", "pause", "unpause"]),
    ],
)
async def test_what_contradicts_the_state_is_a_conflict(state: str, refused: list[str]) -> None:
    async with six(1) as world:
        if state == "defined":
            await world.core.kill("a")
        elif state != "running":
            await getattr(world.core, {"paused": "pause", "suspended": "suspend"}[state])("a")
        for verb in refused:
            with pytest.raises(Conflict):
                await getattr(world.core, verb)("a")
        if state in ("paused", "suspended"):
            with pytest.raises(Conflict, match=state):
                await world.call("a-0", "clone", count=1)
        assert world.core.cluster("a").state == state


async def test_a_vm_is_ended_before_the_suspend_or_not_at_all() -> None:
    for turns in range(24):
        async with six(3) as world:
            await world.core.limit("a", Limits(vms=9), None)
            limiting = asyncio.create_task(world.core.limit("a", Limits(vms=8), None))
            ending = asyncio.create_task(world.core.end(["a-4", "a-5"]))
            for _ in range(turns):
                await asyncio.sleep(0)
            await world.core.suspend("a")
            await asyncio.gather(limiting, ending, return_exceptions=True)
            rows = {vm.name for vm in world.book.vms("a")}
            assert stored(world) == rows and states(world) == {"suspended"}


async def test_one_vm_of_a_suspended_cluster_cannot_be_ended_alone() -> None:
    async with six(3) as world:
        await world.core.suspend("a")
        with pytest.raises(Conflict, match="a-3 is suspended"):
            await world.core.end(["a-3"])
        await world.core.resume("a")
        await world.core.end(["a-3"])
        assert len(world.book.vms("a")) == 5


# VMs that have ended


async def test_a_vm_that_has_ended_is_left_out() -> None:
    async with six(3) as world:
        for host in world.hosts:
            host.running.pop("a-3", None)
        await world.core.ended(VmEnded(vm="a-3", reason="it crashed"))
        rest = [name for name in NAMES if name != "a-3"]
        for verb in ("pause", "unpause", "suspend", "resume"):
            assert await getattr(world.core, verb)("a") == rest
        assert world.book.vm("a-3").state == "dead"
        assert await world.core.kill("a") == rest
        assert world.book.vms("a") == []


@pytest.mark.parametrize(("verb", "back"), [("pause", "unpause"), ("suspend", "resume")])
async def test_a_vm_that_ended_unheard_is_left_out(verb: str, back: str) -> None:
    async with six(3) as world:
        for host in world.hosts:
            host.running.pop("a-3", None)  # and nobody has said so yet
        rest = [name for name in NAMES if name != "a-3"]
        assert await getattr(world.core, verb)("a") == rest
        assert world.book.vm("a-3").state == "dead"
        assert await getattr(world.core, back)("a") == rest


@pytest.mark.parametrize("verb", ["pause", "suspend"])
async def test_a_cluster_that_ended_unheard_does_not_run(verb: str) -> None:
    async with six(3) as world:
        for host in world.hosts:
            host.running.clear()
        with pytest.raises(Conflict, match="'a' does not run"):
            await getattr(world.core, verb)("a")
        assert states(world) == {"dead"} and world.book.cluster("a").intent == ""


async def test_a_vm_that_ends_while_all_are_paused_stays_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with six(1) as world:
        gate = Gate("pause.ordered")
        monkeypatch.setattr(steps, "hook", gate)
        pausing = asyncio.create_task(world.core.pause("a"))
        await gate.reached.wait()
        world.host.running.pop("a-3")
        await world.core.ended(VmEnded(vm="a-3", reason="it crashed"))
        gate.opened.set()
        await pausing
        assert world.book.vm("a-3").state == "dead"
        assert states(world) == {"paused", "dead"}


# whoever asked goes away


@pytest.mark.parametrize("verb", ["pause", "unpause", "suspend", "resume", "kill", "boot"])
async def test_whoever_goes_away_leaves_no_half(verb: str) -> None:
    """Cancelled after each number of turns of the loop: done, or not at all, and it can be asked again."""
    ready = {"unpause": ["pause"], "resume": ["suspend"], "boot": ["kill"]}
    for turns in range(60):
        async with World(hosts=hosts_of(3)) as world:
            master = await world.boot("a", placement="spread")
            await world.call(master, "clone", count=5)
            for one in ready.get(verb, []):
                await getattr(world.core, one)("a")
            doing = asyncio.create_task(getattr(world.core, verb)("a"))
            for _ in range(turns):
                await asyncio.sleep(0)
            over = doing.done()
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)
            await until(
                lambda: not {"starting", "ending"} & states(world) and not world.core.busy()
            )
            world.agree()
            assert len(states(world)) <= 1
            assert world.book.cluster("a").intent == ""
            with contextlib.suppress(Conflict):  # of a boot that was done
                await getattr(world.core, verb)("a")
            world.agree()
            await world.core.kill("a")
            assert running(world) == stored(world) == set() and not world.book.tickets()
            if over:
                return
    raise AssertionError(f"{verb} takes more turns than that")
