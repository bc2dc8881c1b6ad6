"""SSH inside virtual clusters: one login key for each, made and forgotten with it; host keys known while VMs live."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import pytest

from copper.controller import logins
from copper.controller.rows import login_key
from copper.fake.guest import ECHO, FakeGuest
from copper.model.api import NewCluster
from copper.model.errors import Conflict, CopperError, NotFound
from copper.model.ssh import LoginKey, is_public_key
from tests.cluster.fakes import until
from tests.cluster.test_fake_hosts import World


@contextlib.asynccontextmanager
async def a_world(image: str = "debian-12", hosts: int = 2) -> AsyncIterator[World]:
    """The virtual cluster a of that image runs."""
    world = World(hosts)
    async with world.core.working():
        await world.core.create("root", NewCluster(name="a", image=image))
        await world.core.boot("a")
        yield world
    for host in world.hosts:
        host.room.faults.forget()
        await host.agent.leave()


def guest_of(world: World, vm: str) -> FakeGuest:
    machine = world.room_of(vm).find(vm).machine
    assert machine is not None
    return machine.guest


async def known(world: World, vm: str = "a-0") -> dict[str, str]:
    """What `gc known-hosts` in a VM prints: the key by the name."""
    lines = (await world.room_of(vm).call(vm, "known-hosts"))["lines"]
    return {line.split(",")[0]: line.split(" ", 1)[1] for line in lines}


async def test_the_login_key_is_handed_to_the_guest_that_boots() -> None:
    async with a_world() as world:
        key = world.core.logins.login_key("a")
        assert guest_of(world, "a-0").login_key == key.model_dump()
        await world.core.clone("a-0", 3)
        # the memory that it was cloned from has it: it is not sent again
        assert guest_of(world, "a-2").login_key is None
        for shown in (world.core.cluster("a"), *world.core.book.vms("a")):
            assert "PRIVATE" not in shown.model_dump_json()
        records = [record for host in world.hosts for record in host.room.records.values()]
        assert "PRIVATE" not in str(records)


async def test_the_login_key_stays_with_the_virtual_cluster_and_goes_with_it() -> None:
    async with a_world() as world:
        key = world.core.logins.login_key("a")
        await world.core.create("root", NewCluster(name="b", image="debian-12"))
        assert world.core.logins.login_key("b") != key
        await world.core.kill("a")
        await world.core.boot("a")
        assert guest_of(world, "a-0").login_key == key.model_dump()
        await world.core.kill("a")
        await world.core.delete("a")
        assert world.core.book.find(login_key("a"), LoginKey) is None
        await world.core.create("root", NewCluster(name="a", image="debian-12"))
        assert world.core.logins.login_key("a") != key


async def test_an_image_that_does_not_say_so_gets_none_of_it() -> None:
    async with a_world("micro") as world:
        await world.core.clone("a-0", 2)
        assert guest_of(world, "a-0").login_key is None
        assert await known(world) == {}
        assert [vm.ssh_host_key for vm in world.core.book.vms("a")] == [""] * 3
        with pytest.raises(NotFound, match="image micro takes none"):
            world.core.logins.login_key("a")


async def test_an_image_that_cannot_be_had_leaves_no_key() -> None:
    async with a_world() as world:
        for host in world.hosts:
            host.room.faults.plan("template", "fail")
        with pytest.raises(CopperError):
            await world.core.create("root", NewCluster(name="b", image="debian-12"))
        assert world.core.book.find(login_key("b"), LoginKey) is None
        for host in world.hosts:
            host.room.faults.forget()


async def test_all_host_keys_are_known_while_their_vms_live() -> None:
    async with a_world() as world:
        await world.core.clone("a-0", 4)
        keys = await known(world, "a-3")
        assert list(keys) == [f"a-{vmid}" for vmid in range(5)]
        assert len(set(keys.values())) == 5 and all(map(is_public_key, keys.values()))
        rows = {vm.name: vm.ssh_host_key for vm in world.core.book.vms("a")}
        assert rows == keys
        await world.core.end(["a-2"])
        assert "a-2" not in await known(world)
        await world.core.suspend("a")
        await world.core.resume("a")
        del keys["a-2"]
        assert await known(world) == keys


async def test_a_line_has_all_names_of_a_vm() -> None:
    async with a_world() as world:
        own = logins.Logins(world.core.book, "clusters")
        (line,), following = own.known_hosts("a")
        vm = world.core.book.vm("a-0")
        assert line == f"a-0,a-0.clusters,{vm.ip},{vm.ip6} {vm.ssh_host_key}"
        assert following is None


async def test_many_host_keys_come_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "PAGE", 4)
    async with a_world() as world:
        await world.core.clone("a-0", 9)
        room = world.room_of("a-0")
        said: list[str] = []
        after: dict[str, int] = {}
        while True:
            page = await room.call("a-0", "known-hosts", after)
            assert len(page["lines"]) <= 4
            said += page["lines"]
            if "next" not in page:
                break
            after = {"after": page["next"]}
        assert [line.split(",")[0] for line in said] == [f"a-{vmid}" for vmid in range(10)]
        with pytest.raises(OSError, match="expected a vmid"):
            await room.call("a-0", "known-hosts", {"after": True})


async def test_a_clone_is_known_before_its_siblings_are_ready() -> None:
    async with a_world(hosts=1) as world:
        (room,) = (host.room for host in world.hosts)
        held = room.faults.plan("begin", "hang")
        world.hosts[0].agent.vms.settings = dataclasses.replace(
            world.hosts[0].agent.vms.settings, clone_deadline_s=60
        )
        fork = asyncio.create_task(world.core.clone("a-0", 3))
        await held.met.wait()
        await until(lambda: len(world.core.logins.known_hosts("a")[0]) == 3)
        assert all(vm.state == "starting" for vm in world.core.book.vms("a")[1:])
        held.go_on.set()
        await fork
        assert len(await known(world)) == 4


async def test_a_host_agent_that_is_killed_does_not_forget_a_host_key() -> None:
    async with a_world(hosts=1) as world:
        (host,) = world.hosts
        await world.core.clone("a-0", 2)
        keys = await known(world)
        host.kill()
        await host.start()
        for vm in host.agent.vms.all():
            await vm.guest()
        assert {vm.name: vm.ssh_host_key for vm in host.agent.vms.all()} == keys
        assert await known(world) == keys


async def test_a_port_of_a_vm_is_reached_while_it_is_awake() -> None:
    async with a_world(hosts=1) as world:
        (host,) = world.hosts
        machine = host.agent.vms.awake("a-0").machine
        sock = await machine.connect(ECHO)
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"hello"
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await machine.connect(22)
        await world.core.pause("a")
        with pytest.raises(Conflict, match="is paused"):
            host.agent.vms.awake("a-0")
        await world.core.unpause("a")
        await world.core.kill("a")
        with pytest.raises(CopperError):
            await machine.connect(ECHO)
