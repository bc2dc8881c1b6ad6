"""What a host is told of how the world reaches a VM: kept with its record, changed whole or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from copper.fake.keep import Keep
from copper.fake.room import Room
from copper.model.errors import CopperError, NotFound, Refused
from copper.model.networks import Exposure, Forward, PublicAddress
from tests.cluster.hosts import Place, a_place, order_of

FORWARD = Forward(cluster="a", vmid=0, host_port=8080, port=80)


def exposure_of(vmid: int = 0, *addresses: str, **more: Any) -> Exposure:
    brought = [PublicAddress(network="pub", address=one, mode="nat") for one in addresses]
    return Exposure(vm=f"a-{vmid}", cluster="a", private="10.0.0.1", addresses=brought, **more)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with a_place() as made:
        yield made


def in_force(place: Place) -> dict[str, str]:
    return {one.vm: one.detail for one in place.room.found() if one.thing == "exposure"}


async def test_it_is_in_force_with_the_vm_and_gone_with_it(place: Place) -> None:
    exposure = exposure_of(0, "198.51.100.1", "2001:db8::1", egress=["::/0"], forwards=[FORWARD])
    status = await place.host.thaw(order_of().model_copy(update={"exposure": exposure}))
    assert status.exposure == exposure
    summary = "198.51.100.1 nat -; 2001:db8::1 nat -; tcp 8080:80; egress ::/0"
    assert in_force(place) == {"a-0": summary}
    await place.host.expose("a-0", exposure_of())
    assert in_force(place) == {}
    assert (await place.host.vms())[0].exposure is None
    await place.host.expose("a-0", exposure_of(egress=["::/0"]))
    await place.host.end("a-0")
    assert in_force(place) == {}
    with pytest.raises(NotFound):
        await place.host.expose("a-0", exposure)


async def test_a_new_host_agent_and_a_suspend_keep_it(place: Place) -> None:
    exposure = exposure_of(0, "198.51.100.1")
    await place.host.thaw(order_of().model_copy(update={"exposure": exposure}))
    place.host.kill()
    await place.host.start()
    assert (await place.host.vms())[0].exposure == exposure
    await place.host.suspend("a", ["a-0"])
    assert in_force(place) == {}
    await place.host.resume("a")
    assert (await place.host.vms())[0].exposure == exposure
    assert in_force(place) == {"a-0": exposure.summary}


async def test_what_cannot_be_in_force_leaves_it_as_it_was(place: Place) -> None:
    before = exposure_of(0, "198.51.100.1")
    await place.host.thaw(order_of().model_copy(update={"exposure": before}))
    place.room.faults.plan("expose", "fail")
    with pytest.raises(CopperError):
        await place.host.expose("a-0", exposure_of())
    assert in_force(place) == {"a-0": before.summary}
    taken = order_of(1).model_copy(update={"exposure": exposure_of(1, "198.51.100.1")})
    with pytest.raises(Refused, match=r"198\.51\.100\.1 is brought to a-0 already"):
        await place.host.thaw(taken)
    assert place.names() == ["a-0"]
    assert in_force(place) == {"a-0": before.summary}


async def test_it_outlives_the_process_that_simulates_the_host(tmp_path: Path) -> None:
    exposure = exposure_of(0, "198.51.100.1")
    room = Room("here", keep=Keep(tmp_path / "run", tmp_path / "state"))
    process = room.start(room.images["micro"], "a-0")
    room.expose(process, exposure)
    again = Room("here", keep=Keep(tmp_path / "run", tmp_path / "state"))
    assert again.find("a-0").exposure == exposure
    other = again.start(again.images["micro"], "a-1")
    with pytest.raises(Refused, match="brought to a-0 already"):
        again.expose(other, exposure)
    again.end(again.find("a-0"), "it was ended")
    again.expose(other, exposure)
