"""Whole virtual clusters over one host and three: pause, suspend, resume, kill, with a failure at each call."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from copper.controller.rows import user_key
from copper.model.api import Limits
from copper.model.errors import Conflict, CopperError, NoRoom
from copper.model.users import Quota, User
from tests.cluster.fakes import World, until
from tests.cluster.whole import NAMES, everywhere, hosts_of, paused, running, six, states, stored


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
