"""A node is killed with -9 and started again at once: until it serves, and until it has the same VMs as before."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import time

from copper.bench import place
from copper.bench.place import Place
from copper.bench.stats import Guest
from copper.model.api import VmStatus
from copper.model.errors import CopperError, TimedOut

CLUSTER = "bench"
REAL = Guest("micro", 256)
FAKE_IMAGE = "micro"
DEADLINE_S = 60.0


@dataclasses.dataclass(frozen=True)
class Round:
    """What one kill came to; times in milliseconds since it."""

    serves_ms: float
    found_ms: float
    lost: int
    twice: int


def populate(where: Place, image: str, vms: int) -> dict[str, int]:
    """Has so many VMs of one virtual cluster run; their processes by name."""
    where.client.create(CLUSTER, image)
    master = where.client.boot(CLUSTER)
    if vms > 1:
        where.client.clone_vm(master.name, count=vms - 1)
    where.rest(quiet=False)
    return {status.name: status.pid for status in where.client.statuses()}


def kill(where: Place, before: dict[str, int]) -> Round:
    """Kills the node and starts it again: its VMs outlive it. Raises TimedOut when none of them is found."""
    # a hundred guests wake at once: who looks on must not wait for them as well
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    began = time.perf_counter()
    where.process.kill()
    where.process.wait()
    serves_ms = 0.0

    def until_it_answers() -> None:
        nonlocal serves_ms
        while not serves_ms and time.perf_counter() - began < DEADLINE_S:
            try:
                where.client.cluster(CLUSTER)  # what it had acknowledged, not only that it is there
                serves_ms = (time.perf_counter() - began) * 1000
            except CopperError:
                select.select([], [], [], 0.005)

    where.process = place.start(where.settings, where.folder, until_it_answers)
    while True:
        there = _running(where.client.statuses())
        at = time.perf_counter()
        if before.keys() <= there.keys() or at - began > DEADLINE_S:
            break
        where.wait(0.01)
    if not there:
        raise TimedOut(f"no VM was found within {DEADLINE_S:g} s")
    known = [vm.name for vm in where.client.vms(CLUSTER) if vm.state == "running"]
    lost = [name for name in before if name not in there or name not in known]
    others = [name for name, pids in there.items() if pids != {before.get(name)}]
    again = len(known) - len(set(known))
    return Round(serves_ms, (at - began) * 1000, len(lost), len(others) + again)


def _running(statuses: list[VmStatus]) -> dict[str, set[int]]:
    there: dict[str, set[int]] = {}
    for status in statuses:
        if status.state == "running":
            there.setdefault(status.name, set()).add(status.pid)
    return there
