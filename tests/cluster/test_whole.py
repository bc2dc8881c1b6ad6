"""Whole virtual clusters over one host and three: pause, suspend, resume, kill, with a failure at each call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from copper.controller.rows import user_key
from copper.model.api import Limits, VmEnded, VmLimits
from copper.model.errors import Conflict, CopperError, NoRoom, NotFound
from copper.model.users import Quota, User
from copper.wire import steps
from tests.cluster.fakes import FakeHost, World, until

NAMES = [f"a-{vmid}" for vmid in range(6)]


def hosts_of(count: int, room: int = 1000) -> list[FakeHost]:
    return [FakeHost(room, f"h{number}", fetches=True) for number in range(count)]


@contextlib.asynccontextmanager
async def six(count: int) -> AsyncIterator[World]:
    """A virtual cluster of six VMs, spread over so many hosts."""
    async with World(hosts=hosts_of(count)) as world:
        master = await world.boot("a", placement="spread", owner="ann")
        await world.call(master, "clone", count=5)
        assert all(len(host.running) == 6 // count for host in world.hosts)
        yield world
        world.agree()


def states(world: World, name: str = "a") -> set[str]:
    return {vm.state for vm in world.book.vms(name)}


def paused(world: World) -> set[str]:
    return {name for host in world.hosts for name in host.paused if name in host.running}


def stored(world: World) -> set[str]:
    return {name for host in world.hosts for vms in host.stored.values() for name in vms}


def running(world: World) -> set[str]:
    return {name for host in world.hosts for name in host.running}


everywhere = pytest.mark.parametrize("count", [1, 3])


@everywhere
async def test_pause_stops_all_and_unpause_lets_all_go_on(count: int) -> None:
    async with six(count) as world:
        for _ in range(2):  # the same again changes nothing
            assert await world.core.pause("a") == NAMES
            assert states(world) == {"paused"} and paused(world) == set(NAMES)
            assert world.core.cluster("a").state == "paused"
        for _ in range(2):
            assert await world.core.unpause("a") == NAMES
            assert states(world) == {"running"} and paused(world) == set()
            assert world.core.cluster("a").state == "running"


@everywhere
async def test_suspend_frees_all_and_resume_gives_all_back(count: int) -> None:
    async with six(count) as world:
        before = {vm.name: (vm.vmid, vm.host, vm.ip, vm.generation) for vm in world.book.vms("a")}
        for _ in range(2):
            assert await world.core.suspend("a") == NAMES
            assert states(world) == {"suspended"} and stored(world) == set(NAMES)
            assert running(world) == set()
            assert world.core.cluster("a").state == "suspended"
            assert world.core.cluster("a").vms == 6
        assert world.core.capacity.owners["ann"].vms == 0
        for _ in range(2):
            assert await world.core.resume("a") == NAMES
            assert states(world) == {"running"} and stored(world) == set()
        assert world.core.capacity.owners["ann"].vms == 6
        after = {vm.name: (vm.vmid, vm.host, vm.ip, vm.generation) for vm in world.book.vms("a")}
        assert after == before
        assert (await world.call("a-5", "clone", count=1))["vmids"] == [6]


@everywhere
async def test_what_was_paused_is_paused_when_it_is_resumed(count: int) -> None:
    async with six(count) as world:
        await world.core.pause("a")
        await world.core.suspend("a")
        await world.core.resume("a")
        assert states(world) == {"paused"} and paused(world) == set(NAMES)
        await world.core.unpause("a")
        assert states(world) == {"running"}


@everywhere
@pytest.mark.parametrize("how", ["fail", "lose"])
@pytest.mark.parametrize("verb", ["pause", "unpause"])
async def test_a_pause_that_fails_anywhere_leaves_all_as_they_were(
    count: int, how: str, verb: str
) -> None:
    async with six(count) as world:
        if verb == "unpause":
            await world.core.pause("a")
        bad = world.hosts[-1]
        setattr(bad, how, {verb})
        with pytest.raises(CopperError, match="as asked"):
            await getattr(world.core, verb)("a")
        setattr(bad, how, set())
        as_before = {"running"} if verb == "pause" else {"paused"}
        assert states(world) == as_before
        assert paused(world) == (set() if verb == "pause" else set(NAMES))
        await getattr(world.core, verb)("a")
        assert states(world) == {"paused" if verb == "pause" else "running"}


@everywhere
@pytest.mark.parametrize("name", NAMES)
async def test_a_pause_that_fails_at_any_one_vm_leaves_all_running(count: int, name: str) -> None:
    async with six(count) as world:
        for host in world.hosts:
            host.fail = {f"pause {name}"}
        with pytest.raises(CopperError):
            await world.core.pause("a")
        assert states(world) == {"running"} and paused(world) == set()


@everywhere
@pytest.mark.parametrize("how", ["fail", "lose"])
@pytest.mark.parametrize("which", [0, -1])
async def test_a_suspend_that_fails_anywhere_leaves_all_running(
    count: int, how: str, which: int
) -> None:
    async with six(count) as world:
        setattr(world.hosts[which], how, {"suspend"})
        with pytest.raises(CopperError, match="as asked"):
            await world.core.suspend("a")
        assert states(world) == {"running"} and running(world) == set(NAMES)
        assert stored(world) == set()
        assert world.book.cluster("a").intent == ""
        setattr(world.hosts[which], how, set())
        await world.core.suspend("a")
        assert stored(world) == set(NAMES)
        await world.core.resume("a")


@everywhere
async def test_a_host_that_is_lost_while_it_suspends_goes_on_when_it_answers(count: int) -> None:
    async with six(count) as world:
        bad = world.hosts[-1]
        bad.lose, bad.fail = {"suspend"}, {"resume"}
        with pytest.raises(CopperError):
            await world.core.suspend("a")
        assert states(world) == {"running"}
        assert stored(world) == set(bad.stored["a"])
        await asyncio.sleep(0.2)
        assert states(world) == {"running"}, "VMs that are stored have not ended"
        bad.lose = bad.fail = set()
        await until(lambda: running(world) == set(NAMES))
        assert stored(world) == set()


@everywhere
@pytest.mark.parametrize("how", ["fail", "lose"])
@pytest.mark.parametrize("which", [0, -1])
async def test_a_resume_that_fails_anywhere_leaves_all_suspended(
    count: int, how: str, which: int
) -> None:
    async with six(count) as world:
        await world.core.suspend("a")
        setattr(world.hosts[which], how, {"resume"})
        with pytest.raises(CopperError, match="as asked"):
            await world.core.resume("a")
        assert states(world) == {"suspended"} and stored(world) == set(NAMES)
        assert running(world) == set()
        assert world.book.cluster("a").intent == ""
        assert world.core.capacity.owners["ann"].vms == 0
        setattr(world.hosts[which], how, set())
        await world.core.resume("a")
        assert running(world) == set(NAMES)


async def test_a_host_that_is_lost_while_it_resumes_stores_again_when_it_answers() -> None:
    async with six(3) as world:
        await world.core.suspend("a")
        bad = world.hosts[-1]
        bad.lose, bad.fail = {"resume"}, {"vms", "suspend"}
        with pytest.raises(CopperError):
            await world.core.resume("a")
        assert states(world) == {"suspended"}
        assert running(world) == set(bad.running) and len(bad.running) == 2
        bad.lose = bad.fail = set()
        await until(lambda: stored(world) == set(NAMES))
        assert running(world) == set()
        await world.core.resume("a")


@pytest.mark.parametrize("count", [1, 3])
async def test_without_room_a_cluster_stays_suspended(count: int) -> None:
    async with World(hosts=hosts_of(count, room=6 // count)) as world:
        master = await world.boot("a", placement="spread")
        await world.call(master, "clone", count=5)
        await world.core.suspend("a")
        await world.boot("b")
        with pytest.raises(NoRoom):
            await world.core.resume("a")
        assert states(world) == {"suspended"} and stored(world) == set(NAMES)
        assert world.book.cluster("a").intent == ""
        await world.core.kill("b")
        await world.core.resume("a")
        world.agree()


async def test_room_that_was_promised_is_not_taken_by_a_resume() -> None:
    async with World(room=4) as world:
        one = await world.boot("a")
        await world.call(one, "clone", count=2)
        await world.core.suspend("a")
        two = await world.boot("b")
        ticket = await world.ticket(two, maxcpus=2)
        with pytest.raises(NoRoom, match="room for 2, not for 3"):
            await world.core.resume("a")
        await world.core.release_ticket(ticket)
        await world.core.resume("a")


async def test_a_resume_and_a_ticket_do_not_get_the_same_room() -> None:
    for turns in range(12):
        async with World(hosts=hosts_of(2, room=4)) as world:
            one = await world.boot("a", placement="spread")
            await world.call(one, "clone", count=5)
            await world.core.suspend("a")
            two = await world.boot("b")
            resuming = asyncio.create_task(world.core.resume("a"))
            for _ in range(turns):
                await asyncio.sleep(0)
            with contextlib.suppress(NoRoom):
                await world.ticket(two, maxcpus=100)
            await asyncio.gather(resuming, return_exceptions=True)
            for host in world.hosts:
                assert world.core.capacity.hosts[host.name].vms <= 4
            world.agree()


async def test_a_quota_holds_for_a_resume_too() -> None:
    async with World() as world:
        user = User(name="ann", role="user", quota=Quota(vms=4), created=0)
        await world.book.commit(put={user_key("ann"): user})
        one = await world.boot("a", owner="ann")
        await world.call(one, "clone", count=2)
        await world.core.suspend("a")
        two = await world.boot("b", owner="ann")
        await world.call(two, "clone", count=1)
        with pytest.raises(NoRoom, match="user ann may have 2 more"):
            await world.core.resume("a")
        assert states(world) == {"suspended"}
        await world.call(two, "kill", vmids=[1])
        await world.core.resume("a")


async def test_limits_that_were_lowered_meanwhile_take_nothing_away() -> None:
    async with six(1) as world:
        await world.core.suspend("a")
        await world.core.limit("a", Limits(vms=2), None)
        await world.core.resume("a")
        with pytest.raises(NoRoom, match="limits"):
            await world.call("a-0", "clone", count=1)


# kill


@everywhere
@pytest.mark.parametrize("state", ["running", "paused", "suspended"])
async def test_kill_ends_all_in_whatever_state(count: int, state: str) -> None:
    async with six(count) as world:
        if state == "paused":
            await world.core.pause("a")
        if state == "suspended":
            await world.core.suspend("a")
        assert await world.core.kill("a") == NAMES
        assert running(world) == stored(world) == set()
        assert world.book.vms("a") == [] and world.book.tickets("a") == []
        assert world.core.capacity.owners["ann"].vms == 0
        assert await world.core.kill("a") == []
        assert world.core.cluster("a").state == "defined"
        await world.core.boot("a")


@everywhere
@pytest.mark.parametrize("state", ["running", "suspended"])
@pytest.mark.parametrize("how", ["silent", "end", "discard", "lost"])
async def test_a_kill_that_fails_on_one_host_is_finished_when_that_answers(
    count: int, state: str, how: str
) -> None:
    async with six(count) as world:
        if state == "suspended":
            await world.core.suspend("a")
        bad = world.hosts[-1]
        if how == "silent":
            bad.silent = True
        elif how == "lost":
            bad.lose = {"end"}
        else:
            bad.fail = {how}
        if how == "discard" and state == "running":
            await world.core.kill("a")
        else:
            with pytest.raises(CopperError, match="as asked"):
                await world.core.kill("a")
            left = world.book.vms("a")
            assert {vm.host for vm in left} == {bad.name}
            assert {vm.state for vm in left} == {"ending"}
            held = world.core.capacity.owners["ann"]
            # what has no process holds no memory
            assert held.reserved == (0 if state == "suspended" else len(left) * (32 << 20))
            with pytest.raises(Conflict):
                await world.core.boot("a")
            with pytest.raises(Conflict):
                await world.core.delete("a")
        bad.silent, bad.fail, bad.lose = False, set(), set()
        await until(lambda: world.book.vms("a") == [])
        assert running(world) == stored(world) == set()
        assert world.core.capacity.owners["ann"].vms == 0
        await world.core.boot("a")
        await world.core.suspend("a")
        await world.core.resume("a")
        assert running(world) == {"a-0"}


async def test_two_kills_at_once_have_one_effect() -> None:
    async with six(3) as world:
        both = await asyncio.gather(world.core.kill("a"), world.core.kill("a"))
        assert sorted(both, key=len) == [[], NAMES]
        assert world.book.vms("a") == []


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


# one at a time


class Gate:
    """Holds whoever comes to a step, until it is opened."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    async def __call__(self, name: str) -> None:
        if name == self.name:
            self.reached.set()
            await self.opened.wait()


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


# limits


@everywhere
async def test_limits_are_set_live_and_travel_with_new_clones(count: int) -> None:
    async with six(count) as world:
        new = VmLimits(cpus=1.5, own_bytes=64 << 20)
        for _ in range(2):
            await world.core.limit("a", None, new)
            for host in world.hosts:
                assert {name: host.limits[name] for name in host.running} == dict.fromkeys(
                    host.running, new
                )
        await world.call("a-0", "clone", count=1)
        order = next(host.running["a-6"] for host in world.hosts if "a-6" in host.running)
        assert order.limits == new


@everywhere
@pytest.mark.parametrize("how", ["fail", "lose"])
async def test_limits_that_one_host_cannot_set_are_set_nowhere(count: int, how: str) -> None:
    async with six(count) as world:
        old, new = VmLimits(cpus=1), VmLimits(cpus=2)
        await world.core.limit("a", Limits(vms=9), old)
        setattr(world.hosts[-1], how, {"limit"})
        with pytest.raises(CopperError, match="limit"):
            await world.core.limit("a", Limits(vms=7), new)
        for host in world.hosts[:-1]:
            assert all(host.limits[name] == old for name in host.running)
        row = world.book.cluster("a")
        assert (row.limits.vms, row.vm_limits) == (9, old)
        setattr(world.hosts[-1], how, set())
        await world.core.limit("a", Limits(vms=7), new)
        assert world.book.cluster("a").vm_limits == new


async def test_vms_that_are_suspended_keep_the_limits_they_had() -> None:
    async with six(3) as world:
        await world.core.suspend("a")
        with pytest.raises(Conflict, match="suspended"):
            await world.core.limit("a", Limits(vms=9), VmLimits(cpus=1.5))
        assert world.book.cluster("a").limits.vms is None
        await world.core.resume("a")
        await world.core.limit("a", None, VmLimits(cpus=1.5))


@pytest.mark.parametrize("name", ["clone.ordered", "clone.thawed", "clone.written"])
async def test_clones_that_come_while_limits_are_set_are_held_to_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with six(3) as world:
        gate = Gate(name)
        monkeypatch.setattr(steps, "hook", gate)
        fork = asyncio.create_task(world.call("a-0", "clone", count=3))
        await gate.reached.wait()
        new = VmLimits(cpus=1.5)
        await world.core.limit("a", None, new)
        gate.opened.set()
        await fork
        for host in world.hosts:
            assert all(host.limits[name] == new for name in host.running)


async def test_limits_that_are_set_while_the_cluster_changes_are_not_lost() -> None:
    for turns in range(16):
        async with six(1) as world:
            suspending = asyncio.create_task(world.core.suspend("a"))
            for _ in range(turns):
                await asyncio.sleep(0)
            await world.core.limit("a", Limits(vms=9), None)
            await suspending
            assert world.book.cluster("a").limits.vms == 9
            assert world.book.cluster("a").intent == ""


async def test_limits_of_many_at_once_all_come_to_an_end() -> None:
    async with six(1) as world:
        await asyncio.gather(
            *(world.core.limit("a", Limits(vms=number), None) for number in range(10, 20)),
            world.call("a-0", "clone", count=2),
        )
        assert world.book.cluster("a").limits.vms in range(10, 20)
