"""Virtual clusters over hosts: made, booted, ended, deleted."""

from __future__ import annotations

import asyncio

import pytest

from copper.controller.rows import cluster_key
from copper.model.api import Limits, NewCluster, Requirements, VmEnded
from copper.model.errors import BadInput, Conflict, CopperError, NoRoom, NotFound
from copper.wire import steps
from tests.cluster.fakes import WAIT_S, World, until
from tests.cluster.worlds import clone, three

# making


async def test_a_cluster_is_what_was_asked_for() -> None:
    async with World() as world:
        new = NewCluster(
            name="a",
            image="micro",
            memory_mib=256,
            cpus=2,
            memory_class="guaranteed",
            placement="spread",
            requires=Requirements(tags=["ssd"]),
            limits=Limits(vms=3),
        )
        made = await world.core.create("ann", new)
        assert made == world.core.cluster("a")
        assert (made.owner, made.state, made.vms, made.next_vmid) == ("ann", "defined", 0, 0)
        assert (made.placement, made.requires.tags, made.limits.vms) == ("spread", ["ssd"], 3)
        assert made.memory_class == "guaranteed"


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"name": "A"}, BadInput, "name"),
        ({"image": "../x"}, BadInput, "image"),
        ({"image": "nothing"}, NotFound, "no image 'nothing'"),
        ({"memory_mib": 512}, BadInput, "memory 512"),
        ({"cpus": 4}, BadInput, "cpus 4"),
    ],
)
async def test_what_cannot_be_made_is_refused(
    asked: dict[str, object], error: type[CopperError], says: str
) -> None:
    async with World() as world:
        whole = {"name": "a", "image": "micro", **asked}
        with pytest.raises(error, match=says):
            await world.core.create("root", NewCluster.model_validate(whole))
        assert world.core.clusters() == []


async def test_of_many_who_make_the_same_name_one_does() -> None:
    async with World() as world:
        new = NewCluster(name="a", image="micro")
        made = await asyncio.gather(
            *(world.core.create(f"u{n}", new) for n in range(5)), return_exceptions=True
        )
        assert sum(isinstance(one, Conflict) for one in made) == 4
        assert len(world.core.clusters()) == 1


async def test_a_cluster_whose_image_cannot_be_loaded_is_not_made() -> None:
    async with World() as world:
        world.host.fail = {"warm"}
        with pytest.raises(CopperError, match="warm"):
            await world.boot("a")
        assert world.core.clusters() == []
        world.host.fail = set()
        await world.boot("a")


async def test_a_cluster_can_be_made_while_nothing_has_room_for_it() -> None:
    async with World(room=0) as world:
        await world.core.create("root", NewCluster(name="a", image="micro"))
        with pytest.raises(NoRoom):
            await world.core.boot("a")
        assert world.core.cluster("a").state == "defined"
        assert world.book.vms() == [] and world.book.tickets() == []
        world.host.room = 1
        await world.core.boot("a")


async def test_one_host_that_does_not_answer_keeps_nobody_from_anything() -> None:
    async with World(hosts=three(room=2)) as world:
        world.hosts[0].silent = True
        master = await world.boot("a")
        assert [image.users for image in await world.core.images()] == [["a"]]
        await clone(world, master, 3)
        await world.core.pause("a")
        await world.core.unpause("a")
        await world.core.kill("a")
        await world.core.delete("a")
        for host in world.hosts:
            host.silent = True
        with pytest.raises(CopperError, match="does not answer"):
            await world.core.images()


# booting, and ending


async def test_boot_gives_the_master_its_own_ticket_and_starts_numbers_anew() -> None:
    async with World() as world:
        master = await world.boot("a")
        await clone(world, master, 3)
        first = world.book.vm(master).ticket
        await world.core.kill("a")
        vm = await world.core.boot("a")
        assert (vm.vmid, vm.generation, vm.state, vm.parent) == (0, 0, "running", None)
        assert vm.ticket != first and [t.id for t in world.book.tickets("a")] == [vm.ticket]
        assert await clone(world, master, 1) == [1]
        world.agree()


@pytest.mark.parametrize("how", ["fail", "lose"])
async def test_a_boot_that_fails_leaves_nothing(how: str) -> None:
    async with World() as world:
        setattr(world.host, how, {"thaw"})
        with pytest.raises(CopperError, match="as asked"):
            await world.boot("a")
        assert world.book.vms() == [] and world.book.tickets() == []
        world.agree()
        setattr(world.host, how, set())
        await world.core.boot("a")


async def test_a_boot_whose_end_fails_too_says_why_it_failed_first() -> None:
    async with World() as world:
        world.host.lose, world.host.fail = {"thaw"}, {"end"}
        with pytest.raises(CopperError, match="thaw is lost"):
            await world.boot("a")
        assert [vm.state for vm in world.book.vms()] == ["ending"]
        world.host.lose = world.host.fail = set()
        await until(lambda: world.book.vms() == [])
        assert world.book.tickets() == []
        world.agree()
        await world.core.boot("a")


async def test_of_many_who_boot_one_does() -> None:
    async with World(hosts=three()) as world:
        await world.core.create("root", NewCluster(name="a", image="micro"))
        done = await asyncio.gather(
            *(world.core.boot("a") for _ in range(5)), return_exceptions=True
        )
        assert sum(isinstance(one, Conflict) for one in done) == 4
        world.agree()
        assert len(world.book.vms()) == 1 and len(world.book.tickets()) == 1


async def test_a_boot_that_is_killed_leaves_nothing_and_harms_no_later_one() -> None:
    for turns in range(0, 40, 3):
        async with World(hosts=three()) as world:
            await world.core.create("root", NewCluster(name="a", image="micro"))
            first = asyncio.create_task(world.core.boot("a"))
            for _ in range(turns):
                await asyncio.sleep(0)
            await world.core.kill("a")
            second = await world.core.boot("a")
            outcome = (await asyncio.gather(first, return_exceptions=True))[0]
            assert not isinstance(outcome, BaseException) or isinstance(outcome, Conflict)
            await asyncio.sleep(0.01)
            assert world.book.vms() == [second]
            world.agree()


async def test_a_kill_does_not_wait_for_a_boot_that_hangs() -> None:
    async with World() as world:
        world.host.gate = asyncio.Event()
        booting = asyncio.create_task(world.boot("a"))
        await world.host.at_gate.wait()
        async with asyncio.timeout(WAIT_S):
            await world.core.kill("a")
        with pytest.raises(Conflict, match="was killed"):
            await booting
        assert world.book.vms() == [] and world.book.tickets() == []
        world.agree()


async def test_a_boot_of_what_runs_keeps_nobody_from_forking() -> None:
    async with World() as world:
        master = await world.boot("a")
        again = asyncio.create_task(world.core.boot("a"))
        fork = asyncio.create_task(clone(world, master, 2))
        with pytest.raises(Conflict, match="runs already"):
            await again
        assert await fork == [1, 2]


async def test_a_caller_that_goes_away_while_it_boots_leaves_nothing_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached = asyncio.Event()

    async def stop(name: str) -> None:
        if name == "boot.planned":
            reached.set()
            await asyncio.Event().wait()

    async with World() as world:
        await world.core.create("root", NewCluster(name="a", image="micro"))
        monkeypatch.setattr(steps, "hook", stop)
        booting = asyncio.create_task(world.core.boot("a"))
        await reached.wait()
        booting.cancel()
        await asyncio.gather(booting, return_exceptions=True)
        assert world.book.vms() == [] and world.book.tickets() == []
        assert world.book.find(cluster_key("a"), type(world.book.cluster("a")))


async def test_a_cluster_whose_master_died_can_be_booted_again() -> None:
    async with World() as world:
        master = await world.boot("a")
        world.host.running.clear()
        await world.core.ended(VmEnded(vm=master, reason="it crashed"))
        assert world.core.cluster("a").state == "defined"
        assert world.book.vm(master).reason == "it crashed"
        assert world.core.capacity.owners["root"].vms == 0
        await world.core.boot("a")
        assert world.book.vm(master).state == "running"
        world.agree()


async def test_the_end_of_a_vm_is_heard_once_and_only_of_one_that_runs() -> None:
    async with World() as world:
        master = await world.boot("a")
        await world.core.ended(VmEnded(vm="a-9", reason="nobody"))
        world.host.running.clear()
        await world.core.ended(VmEnded(vm=master, reason="first"))
        await world.core.ended(VmEnded(vm=master, reason="second"))
        assert world.book.vm(master).reason == "first"
        await world.core.kill("a")
        await world.core.ended(VmEnded(vm=master, reason="late"))
        assert world.book.vms() == []


async def test_a_vm_that_ends_while_it_is_killed_does_not_come_back() -> None:
    for turns in range(12):
        async with World() as world:
            master = await world.boot("a")
            await clone(world, master, 2)
            killing = asyncio.create_task(world.core.kill("a"))
            for _ in range(turns):
                await asyncio.sleep(0)
            await world.core.ended(VmEnded(vm="a-1", reason="it crashed"))
            await killing
            assert world.book.vms() == [] and world.book.tickets() == []


# deleting


async def test_a_cluster_is_deleted_with_all_its_rows() -> None:
    async with World() as world:
        master = await world.boot("a")
        await clone(world, master, 2)
        with pytest.raises(Conflict, match="has VMs"):
            await world.core.delete("a")
        world.host.running.clear()
        for name in ("a-0", "a-1", "a-2"):
            await world.core.ended(VmEnded(vm=name, reason="it crashed"))
        await world.core.delete("a")
        assert world.book.vms() == [] and world.book.tickets() == [] and not world.core.clusters()
        with pytest.raises(NotFound):
            await world.core.delete("a")


async def test_who_waits_is_told_when_the_cluster_is_gone() -> None:
    async with World(room=1) as world:
        master = await world.boot("a")
        waiting = asyncio.create_task(world.ticket(master, maxcpus=2, timeout_ms=60_000))
        await until(lambda: world.core.tickets.waiting == 1)
        await world.core.kill("a")
        await world.core.delete("a")
        with pytest.raises(CopperError):
            async with asyncio.timeout(WAIT_S):
                await waiting
        assert world.book.tickets() == []


async def test_a_cluster_that_is_deleted_while_it_is_booted_is_one_or_the_other() -> None:
    for turns in range(10):
        async with World() as world:
            await world.core.create("root", NewCluster(name="a", image="micro"))
            booting = asyncio.create_task(world.core.boot("a"))
            for _ in range(turns):
                await asyncio.sleep(0)
            deleted = await asyncio.gather(world.core.delete("a"), return_exceptions=True)
            booted = await asyncio.gather(booting, return_exceptions=True)
            assert isinstance(deleted[0], Conflict) != isinstance(booted[0], CopperError)
            assert len(world.core.clusters()) == len(world.book.vms())
            world.agree()


async def test_an_image_is_kept_while_a_cluster_stands_on_it() -> None:
    async with World(hosts=three()) as world:
        await world.core.create("root", NewCluster(name="a", image="micro"))
        with pytest.raises(Conflict, match="in use by a"):
            await world.core.delete_image("micro")
        await world.core.delete("a")
        await world.core.delete_image("micro")
