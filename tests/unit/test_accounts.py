"""What was used: every increment counted once, areas by the stated rule, rows that stay."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copper.controller import accounts as module
from copper.controller.accounts import DAY, HOUR
from copper.controller.rows import Counted, UsageRow, cluster_key, usage_key, vm_key
from copper.model.api import HostReport, VmState, VmUse
from copper.model.errors import NoRoom
from copper.store.memory import MemoryStore
from tests.unit.accounts import MIB, NOW, Place, cluster, new_place, place, report, use, vm

__all__ = ["place"]


async def test_an_increment_is_counted_once_over_restarts(place: Place) -> None:
    place.accounts.add(report(use(cpu_s=5, disk=100)), 0)
    await place.accounts.write(now=True)
    place.accounts.add(report(use(cpu_s=7, disk=150)), 2)  # not written
    await place.crash()
    assert place.one().cpu_s == 5
    place.accounts.add(report(use(cpu_s=9, disk=160)), 100)
    assert (place.one().cpu_s, place.one().disk_written_bytes) == (9, 160)
    await place.accounts.write(now=True)
    await place.crash()
    place.accounts.add(report(use(cpu_s=9, disk=160)), 102)
    assert (place.one().cpu_s, place.one().disk_written_bytes) == (9, 160)


async def test_a_counter_that_went_backwards_began_at_zero(place: Place) -> None:
    place.accounts.add(report(use(cpu_s=5, disk=100)), 0)
    place.accounts.add(report(use(cpu_s=2, disk=130)), 2)
    assert (place.one().cpu_s, place.one().disk_written_bytes) == (7, 130)


async def test_another_process_of_a_vm_counts_from_zero_even_when_it_is_ahead(place: Place) -> None:
    place.accounts.add(report(use(cpu_s=5)), 0)
    place.accounts.add(report(use(cpu_s=6, process="q"), ended=(use(cpu_s=5.5),)), 2)
    assert place.one().cpu_s == 11.5
    place.accounts.add(report(use(cpu_s=6, process="q"), ended=(use(cpu_s=5.5),)), 4)
    assert place.one().cpu_s == 11.5


async def test_the_last_increment_is_counted_when_vm_and_cluster_are_gone(place: Place) -> None:
    place.accounts.add(report(use(cpu_s=5)), 0)
    await place.book.commit(delete=[vm_key("demo-0"), cluster_key("demo")])
    last, brief = use(cpu_s=6), use("demo-1", "r", cpu_s=1)
    place.accounts.add(report(ended=(last, brief)), 2)
    place.accounts.add(report(ended=(last,)), 4)
    await place.accounts.write(now=True)
    await place.crash()
    assert (place.one().cpu_s, place.one().owner) == (7, "ann")


async def test_the_uses_of_nobody_are_not_counted(place: Place) -> None:
    place.accounts.add(report(use("other-0", cpu_s=5)), 0)
    assert place.accounts.usage() == []


async def test_a_report_that_comes_late_or_twice_is_no_news(place: Place) -> None:
    place.accounts.add(report(use(cpu_s=5)), 2)
    place.accounts.add(report(use(cpu_s=5)), 2)
    place.accounts.add(report(use(cpu_s=3)), 1)
    assert place.one().cpu_s == 5


async def test_an_agent_that_lists_its_vms_late_does_not_make_them_count_anew(place: Place) -> None:
    place.accounts.add(report(use(cpu_s=5)), 0)
    place.accounts.add(report(), 2)
    place.accounts.add(report(use(cpu_s=6)), 4)
    assert place.one().cpu_s == 6


async def test_areas_are_trapezoids_and_an_absent_vm_has_nothing(place: Place) -> None:
    place.accounts.add(report(), 0)
    place.accounts.add(report(use()), 2)  # from nothing: a half of it
    place.accounts.add(report(use()), 4)
    place.accounts.add(report(), 6)  # to nothing
    found = place.one()
    assert found.vm_s == 1 + 2 + 1
    assert found.own_byte_s == 4 * 10 * MIB
    assert found.shared_byte_s == 4 * 100 * MIB
    assert found.nominal_byte_s == 4 * 256 * MIB
    assert found.reserved_byte_s == 4 * 20 * MIB


async def test_of_a_long_gap_three_intervals_are_counted_and_nothing_of_a_downtime(
    place: Place,
) -> None:
    place.accounts.add(report(use()), 0)
    place.accounts.add(report(use()), 3600)
    assert place.one().vm_s == 6
    await place.accounts.write(now=True)
    await place.crash()
    place.accounts.add(report(use()), 7200)
    assert place.one().vm_s == 6


@pytest.mark.parametrize("state", ["suspended", "dead"])
async def test_a_vm_that_its_host_does_not_hold_has_no_memory(place: Place, state: VmState) -> None:
    await place.put(vm("demo-0", state=state))
    place.accounts.add(report(use(cpu_s=1)), 0)
    place.accounts.add(report(use(cpu_s=2)), 2)
    assert (place.one().vm_s, place.one().cpu_s) == (0, 2)


async def test_rows_are_written_every_ten_seconds_at_most(place: Place) -> None:
    place.accounts.add(report(use(cpu_s=1)), 0)
    await place.accounts.write()
    written = await place.store.list("usage/")
    place.accounts.add(report(use(cpu_s=2)), 2)
    await place.accounts.write()
    assert len(written) == 1 and await place.store.list("usage/") == written
    await place.accounts.write(now=True)
    assert await place.store.list("usage/") != written
    before = await place.store.list("")
    await place.accounts.write(now=True)  # nothing is new: nothing is written
    assert await place.store.list("") == before


class Full(MemoryStore):
    full = False

    async def commit(self, **wanted: object) -> int:
        if self.full:
            raise NoRoom("the disk is full")
        return await super().commit(**wanted)  # type: ignore[arg-type]


async def test_what_the_store_does_not_take_is_kept(place: Place) -> None:
    place.store = store = Full()
    await place.crash()
    await place.put(cluster("demo"), vm("demo-0"))
    place.accounts.add(report(use(cpu_s=3)), 0)
    store.full = True
    await place.accounts.write(now=True)
    assert place.one().cpu_s == 3
    place.accounts.add(report(use(cpu_s=4)), 2)
    store.full = False
    await place.accounts.write(now=True)
    await place.crash()
    assert place.one().cpu_s == 4


class Slow(MemoryStore):
    """Takes what it is told when the test lets it."""

    gate: asyncio.Event | None = None

    async def commit(self, **wanted: object) -> int:
        if self.gate is not None:
            await self.gate.wait()
        return await super().commit(**wanted)  # type: ignore[arg-type]


async def test_a_caller_that_goes_away_does_not_make_it_count_twice(place: Place) -> None:
    place.store = store = Slow()
    await place.crash()
    await place.put(cluster("demo"), vm("demo-0"))
    place.accounts.add(report(use(cpu_s=3)), 0)
    store.gate = asyncio.Event()
    task = asyncio.create_task(place.accounts.write(now=True))
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    store.gate.set()
    await place.accounts.write(now=True)
    await place.crash()
    assert place.one().cpu_s == 3


async def test_counters_of_vms_that_are_gone_are_not_kept(place: Place) -> None:
    async def counted() -> list[str]:
        await place.accounts.write(now=True)
        return [key for row in place.book.all("counted", Counted) for key in row.vms]

    last = use(cpu_s=6)
    place.accounts.add(report(use(cpu_s=5)), 0)
    assert await counted() == ["demo-0 p"]
    place.accounts.add(report(use(cpu_s=1, process="q"), ended=(last,)), 2)
    assert sorted(await counted()) == ["demo-0 p", "demo-0 q"]
    place.accounts.add(report(use(cpu_s=1, process="q")), 4)
    assert await counted() == ["demo-0 q"]
    await place.put(vm("demo-0", state="suspended"))
    place.accounts.add(report(), 6)
    assert await counted() == []


async def test_hours_and_owners_have_rows_of_their_own(place: Place) -> None:
    place.accounts.add(report(use(cpu_s=1)), 0)
    place.clock.now += HOUR
    place.accounts.add(report(use(cpu_s=3)), 2)
    await place.book.commit(delete=[vm_key("demo-0"), cluster_key("demo")])
    await place.put(cluster("demo", "bob"), vm("demo-0", "bob"))
    place.accounts.add(report(use(cpu_s=10, process="q")), 4)
    for _ in range(2):  # before it is written, and after
        assert [(u.owner, u.cpu_s) for u in place.accounts.usage()] == [("ann", 3), ("bob", 10)]
        assert [u.cpu_s for u in place.accounts.usage(begin=NOW + HOUR)] == [2, 10]
        assert [u.cpu_s for u in place.accounts.usage(end=NOW + 1)] == [1]
        assert [u.cpu_s for u in place.accounts.usage(owner="bob")] == [10]
        assert place.accounts.usage(cluster="other") == []
        users = place.accounts.usage(by="user")
        assert [(u.cluster, u.owner, u.cpu_s) for u in users] == [("", "ann", 3), ("", "bob", 10)]
        await place.accounts.write(now=True)
    assert place.book.find(usage_key("demo", int(NOW // HOUR) + 1, "bob"), UsageRow) is not None


async def test_old_hours_become_days_and_very_old_ones_go(place: Place) -> None:
    midnight = NOW // DAY * DAY
    for hour in range(30):
        begin = midnight + hour * HOUR
        row = UsageRow(cluster="demo", owner="ann", begin=begin, end=begin + 60, cpu_s=1)
        await place.book.commit(put={usage_key("demo", int(begin // HOUR), "ann"): row})
    place.clock.now = midnight + 50 * DAY
    await place.accounts.write(now=True)
    assert [row.cpu_s for row in place.book.all("usage", UsageRow)] == [24, 6]
    assert place.one().cpu_s == 30
    assert [u.cpu_s for u in place.accounts.usage(begin=midnight + DAY)] == [6]
    await place.crash()
    assert place.one().cpu_s == 30
    place.clock.now = midnight + 402 * DAY
    await place.accounts.write(now=True)
    assert place.accounts.usage() == [] and await place.store.list("usage/") == []


async def test_what_was_used_since_the_start_is_for_clusters_that_are_there(place: Place) -> None:
    place.accounts.add(report(use(cpu_s=3)), 0)
    assert [u.cpu_s for u in place.accounts.since_start()] == [3]
    await place.accounts.write(now=True)
    await place.crash()
    assert place.accounts.since_start() == []
    place.accounts.add(report(use(cpu_s=4)), 2)
    assert [u.cpu_s for u in place.accounts.since_start()] == [1]
    await place.book.commit(delete=[cluster_key("demo")])
    assert place.accounts.since_start() == []


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("use"), st.integers(0, 3), st.integers(0, 50)),
        st.tuples(st.sampled_from(["report", "write", "crash"]), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("restart"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("suspend"), st.integers(0, 3), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_all_increments_are_counted_once_whatever_happens(
    steps: list[tuple[str, int, int]],
) -> None:
    """Four VMs on two hosts; hosts list those that ended until the end."""
    asyncio.run(_count(steps))


async def _count(steps: list[tuple[str, int, int]]) -> None:
    place = await new_place()
    names = [f"demo-{i}" for i in range(4)]
    for i, name in enumerate(names):
        await place.put(vm(name, host="ab"[i % 2]))
    counters = dict.fromkeys(names, 0)
    process = dict.fromkeys(names, 0)
    ended: dict[str, list[VmUse]] = {"a": [], "b": []}
    held = dict.fromkeys(names, True)
    total, at = 0, 0

    def measured(host: str) -> HostReport:
        here = [n for i, n in enumerate(names) if "ab"[i % 2] == host and held[n]]
        vms = [use(n, str(process[n]), counters[n], counters[n]) for n in here]
        return report(*vms, ended=tuple(ended[host]), host=host)

    for what, which, amount in [*steps, ("report", 0, 0), ("report", 1, 0)]:
        name, at = names[which], at + 1
        if what == "use" and held[name]:
            counters[name] += amount
            total += amount
        elif what == "report":
            place.accounts.add(measured("ab"[which]), at)
        elif what == "write":
            await place.accounts.write(now=True)
        elif what == "crash":
            await place.crash()
        elif what in ("restart", "suspend"):
            if held[name]:
                last = use(name, str(process[name]), counters[name], counters[name])
                ended["ab"[which % 2]].append(last)
            held[name] = what == "restart"
            process[name], counters[name] = process[name] + 1, 0
            state: VmState = "running" if held[name] else "suspended"
            await place.put(vm(name, state=state, host="ab"[which % 2]))
    used = place.accounts.usage(by="user")
    assert sum(u.cpu_s for u in used) == sum(u.disk_written_bytes for u in used) == total


async def test_many_vms_are_written_in_parts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VMS_A_WRITE", 2)
    for i in range(5):
        await place.put(vm(f"demo-{i}", host=f"h{i}"))
        place.accounts.add(report(use(f"demo-{i}", cpu_s=i), host=f"h{i}"), 0)
    await place.accounts.write(now=True)
    await place.crash()
    assert place.one().cpu_s == 10
    assert len(await place.store.list("counted/")) == 4  # who used nothing has no counter
