"""Controllers with a public network of four addresses, and who has which."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from copper.model.api import NewCluster
from copper.model.networks import Attachment, Lease, NewNetwork
from tests.cluster.fakes import World

POOL = ["198.51.100.1-198.51.100.4"]
ALL = [Attachment(name="pub")]
MASTER = [Attachment(name="pub", master_only=True)]


@contextlib.asynccontextmanager
async def public_world() -> AsyncIterator[World]:
    """A controller whose host has the network `pub`, and may have `six`."""
    async with World() as made:
        made.host.networks = ["pub", "six"]
        await made.core.hosts.refresh()
        await made.core.networks.create(NewNetwork(name="pub", pool=POOL))
        yield made


def new_cluster(name: str, networks: list[Attachment], **more: Any) -> NewCluster:
    return NewCluster(name=name, image="micro", networks=networks, **more)


def public(world: World, cluster: str = "a") -> dict[str, list[str]]:
    return {vm.name: vm.public for vm in world.book.vms(cluster) if vm.public}


def leases(world: World) -> dict[str, str]:
    """By address, whose."""
    found = {one.address: one.vm for one in world.book.all("leases", Lease)}
    has = {address: vm.name for vm in world.book.vms() for address in vm.public}
    assert found == has
    return found


def left(world: World, network: str = "pub") -> int:
    found = world.core.networks.show(network).left
    assert found is not None
    return found


def in_force(world: World) -> dict[str, list[str]]:
    """By VM, the addresses that hosts bring to it."""
    return {
        vm: [one.address for one in exposure.addresses]
        for host in world.hosts
        for vm, exposure in host.exposed.items()
    }
