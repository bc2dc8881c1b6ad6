"""A fake host's weight: a thousand of them with a hundred machines each fit into one process."""

from __future__ import annotations

import gc
import time
import tracemalloc
from pathlib import Path

from copper.fake.host import DirectLink, FakeHost
from copper.fake.keep import Keep
from copper.fake.room import Room
from copper.model.api import GuestCall, ThawOrder, VmEnded
from copper.model.machine import Identity
from copper.model.settings import Settings

VM_BYTES = 2600  # 100,000 of them are 260 MB
THAW_S = 0.0005  # of processor time; 60 µs where nothing else runs


async def _no_answer(call: GuestCall) -> dict[str, object]:
    return {"call": call.call}


async def _not_told(ended: VmEnded) -> None:
    raise AssertionError(ended)


def a_host(name: str = "fake-0", keep: Keep | None = None) -> FakeHost:
    return FakeHost(Room(name, keep=keep), Settings(), DirectLink(_no_answer, _not_told))


def order(vmid: int) -> ThawOrder:
    identity = Identity(cluster="a", vmid=vmid, name=f"a-{vmid}", ip="10.0.0.1", ticket="t")
    return ThawOrder(identity=identity, template="micro")


async def test_a_fake_machine_takes_two_and_a_half_kilobytes_and_no_task() -> None:
    host = a_host()
    await host.thaw(order(0))
    gc.collect()
    tracemalloc.start()
    try:
        for vmid in range(1, 1001):
            await host.thaw(order(vmid))
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / 1000 < VM_BYTES
    assert len(host.room.processes) == 1001
    await host.agent.leave()


async def test_a_thaw_without_delay_is_quick() -> None:
    host = a_host()
    took = []
    for first in range(0, 1000, 100):
        began = time.process_time()
        for vmid in range(first, first + 100):
            await host.agent.vms.put(f"a-{vmid}", order(vmid))
        took.append((time.process_time() - began) / 100)
    assert min(took) < THAW_S
    await host.agent.leave()


async def test_a_room_on_disk_is_found_again_by_another_process(tmp_path: Path) -> None:
    def keep() -> Keep:
        return Keep(tmp_path / "run", tmp_path / "state")

    first = a_host(keep=keep())
    for vmid in range(3):
        await first.thaw(order(vmid))
    image = (await first.freeze("a-0")).image
    clone = order(3).model_copy(update={"template": None, "frozen": image})
    await first.thaw(clone)
    await first.end("a-1")
    await first.suspend("a", ["a-0"])
    pids = {status.name: status.pid for status in await first.vms()}
    del first
    second = a_host(keep=keep())
    await second.start()
    assert {status.name: status.pid for status in await second.vms()} == pids
    assert pids.keys() == {"a-2", "a-3"}
    assert await second.suspended() == {"a": ["a-0"]}
    await second.resume("a")
    new = await second.thaw(order(9))
    assert new.pid not in pids.values()
    for name in ("a-0", "a-2", "a-3", "a-9"):
        await second.end(name)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert second.room.room_bytes() == second.room.memory_bytes
    await second.agent.leave()
