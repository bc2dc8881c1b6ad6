"""What is held is what the rows say, however they came to say it; the room of a host follows one stated rule."""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copper.controller.capacity import Capacity, Sum, left_of
from copper.controller.rows import HELD
from copper.model.api import HostFacts, HostReport, Limits, Vm, VmUse
from copper.model.machine import Record
from copper.model.tickets import Ticket
from copper.model.users import Quota

MIB = 1 << 20
HOSTS = ["h", "i", "j"]
STATES = ["starting", "running", "paused", "suspended", "ending", "dead"]


def vm(name: str = "a-0", **fields: Any) -> Vm:
    cluster, _, vmid = name.rpartition("-")
    of = {"cluster": cluster, "vmid": int(vmid), "ip": "10.0.0.1", "generation": 0, "parent": None}
    rest = {"state": "running", "host": "h", "created": 0, "owner": "ann", "cpus": 2}
    return Vm.model_validate({"name": name, **of, **rest, "reserved_bytes": 64 * MIB, **fields})


def ticket(name: str = "t", **fields: Any) -> Ticket:
    rest = {"cluster": "a", "owner": "ann", "holder": 0, "cpus": 4, "vms": 2, "mincpuspervm": 1}
    held = {"status": "granted", "places": {"h": 2}, "vm_bytes": 64 * MIB}
    return Ticket.model_validate({"id": name, **rest, **held, **fields})


def report(
    host: str = "h", free_mib: int = 1024, own: dict[str, int] | None = None, **facts: Any
) -> HostReport:
    """What a host says of itself; `own` in MiB, by VM."""
    fields = {
        "name": host,
        "cpus": 4,
        "memory_bytes": 1 << 40,
        "free_bytes": free_mib * MIB,
        "disk_bytes": 1,
        "disk_free_bytes": 1,
        "accelerator": "tcg",
        "accelerator_reason": "",
        "qemu": "9",
        "machine": "pc",
        "vms": 0,
        "standbys": 0,
        **facts,
    }
    use = [
        VmUse(
            name=name,
            cluster="a",
            nominal_bytes=1,
            shared_bytes=1,
            own_bytes=mib * MIB,
            cpu_s=0,
        )
        for name, mib in (own or {}).items()
    ]
    return HostReport(facts=HostFacts.model_validate(fields), vms=use)


def room_of(capacity: Capacity, host: str = "h") -> tuple[int, int]:
    """Processors, and memory in MiB."""
    room = capacity.room(host)
    assert room is not None
    return room.cpus, room.memory // MIB


def test_a_host_that_was_never_measured_has_no_room() -> None:
    capacity = Capacity()
    capacity.seen("vms/a-0", None, vm())
    assert capacity.room("h") is None
    assert capacity.rooms() == [] and capacity.facts() == []


def test_the_rule_for_processors_is_the_ratio_less_what_is_held() -> None:
    capacity = Capacity()
    capacity.report(report(cpu_ratio=2.5))
    assert room_of(capacity)[0] == 10
    capacity.seen("vms/a-0", None, vm())
    capacity.seen("tickets/t", None, ticket())
    assert room_of(capacity)[0] == 10 - 2 - 4
    capacity.report(report(cpu_ratio=1))
    assert room_of(capacity)[0] == 4 - 6  # what is held stays, also when the ratio is lowered


def test_the_rule_for_memory_is_what_was_free_less_what_is_promised_and_not_written() -> None:
    capacity = Capacity()
    capacity.seen("vms/a-0", None, vm())
    capacity.seen("vms/a-1", None, vm("a-1"))
    capacity.report(report(own={"a-0": 50, "a-1": 80}))
    assert room_of(capacity)[1] == 1024 - 14 - 0  # a VM past its reservation owes nothing
    capacity.seen("vms/a-2", None, vm("a-2"))
    assert room_of(capacity)[1] == 1024 - 14 - 64
    capacity.seen("tickets/t", None, ticket())
    assert room_of(capacity)[1] == 1024 - 14 - 64 - 128
    # the ticket is used: it is the VMs now who hold the same
    capacity.seen("tickets/t", ticket(), ticket(status="used"))
    for name in ("a-3", "a-4"):
        capacity.seen(f"vms/{name}", None, vm(name, state="starting"))
    assert room_of(capacity) == (16 - 10, 1024 - 14 - 64 - 128)


def test_memory_of_a_vm_that_ended_is_free_when_the_host_has_measured_it() -> None:
    capacity = Capacity()
    capacity.seen("vms/a-0", None, vm())
    capacity.report(report(own={"a-0": 50}))
    assert room_of(capacity) == (14, 1010)
    capacity.seen("vms/a-0", vm(), None)
    assert room_of(capacity) == (16, 1024)
    capacity.report(report(free_mib=1074))
    assert room_of(capacity) == (16, 1074)


def test_a_host_whose_vm_ended_has_given_back_until_it_is_measured() -> None:
    capacity = Capacity()
    capacity.seen("vms/a-0", None, vm())
    capacity.seen("vms/a-0", vm(), vm(state="paused"))
    capacity.seen("vms/a-0", vm(state="paused"), vm(state="dead"))
    assert capacity.gave_back() == []  # it was never measured: it does not answer
    capacity.report(report())
    assert capacity.gave_back() == []
    capacity.seen("vms/a-1", None, vm("a-1"))
    capacity.seen("vms/a-1", vm("a-1"), vm("a-1", state="ending"))
    assert capacity.gave_back() == []
    capacity.seen("vms/a-1", vm("a-1", state="ending"), None)
    assert capacity.gave_back() == ["h"]
    capacity.report(report())
    assert capacity.gave_back() == []


@pytest.mark.parametrize("state", STATES)
def test_only_vms_with_processes_hold_something(state: str) -> None:
    capacity = Capacity()
    capacity.report(report())
    capacity.seen("vms/a-0", None, vm(state=state))
    held = state in HELD
    assert room_of(capacity) == ((14, 960) if held else (16, 1024))
    assert capacity.names_on("h") == (["a-0"] if held else [])
    assert capacity.owners["ann"].vms == capacity.clusters["a"].vms == int(held)


def test_a_host_that_does_not_answer_takes_nothing_and_loses_nothing() -> None:
    capacity = Capacity()
    capacity.report(report())
    capacity.seen("vms/a-0", None, vm())
    capacity.forget("h")
    assert capacity.room("h") is None
    capacity.seen("vms/a-1", None, vm("a-1"))
    assert capacity.hosts["h"].vms == 2
    capacity.report(report(own={"a-0": 64}))
    assert room_of(capacity) == (12, 960)
    capacity.forget("h")
    capacity.forget("h")


def test_a_ticket_holds_on_each_host_what_is_placed_there() -> None:
    capacity = Capacity()
    for host in ("h", "i"):
        capacity.report(report(host))
    spread = ticket(vms=5, cpus=10, places={"h": 2, "i": 3})
    capacity.seen("tickets/t", None, spread)
    assert (room_of(capacity, "h"), room_of(capacity, "i")) == ((12, 896), (10, 832))
    assert capacity.owners["ann"] == Sum(vms=5, cpus=10, reserved=320 * MIB)
    capacity.seen("tickets/t", spread, None)
    assert (room_of(capacity, "h"), room_of(capacity, "i")) == ((16, 1024), (16, 1024))


def test_other_rows_hold_nothing() -> None:
    capacity = Capacity()
    capacity.seen("users/ann", None, Quota())
    assert not capacity.hosts and not capacity.owners and not capacity.clusters


@pytest.mark.parametrize(
    ("most", "left"),
    [
        ({}, None),
        ({"vms": 5}, 3),
        ({"vms": 1}, 0),
        ({"cpus": 11}, 3),
        ({"memory_mib": 200}, 2),
        ({"vms": 5, "cpus": 6, "memory_mib": 4096}, 1),
    ],
)
@pytest.mark.parametrize("kind", [Limits, Quota])
def test_what_a_quota_leaves_is_the_least_of_what_it_says(
    kind: type[Limits] | type[Quota], most: dict[str, int], left: int | None
) -> None:
    held = Sum(vms=2, cpus=4, reserved=72 * MIB)
    assert left_of(held, kind(**most), cpus=2, reserved=64 * MIB) == left


def test_a_vm_that_reserves_no_memory_is_not_bound_by_a_quota_of_memory() -> None:
    assert left_of(Sum(), Quota(memory_mib=0), cpus=1, reserved=0) is None
    assert left_of(Sum(), Quota(memory_mib=0), cpus=1, reserved=1) == 0


# sums that are kept, and sums made anew

vms_of = st.builds(
    lambda vmid, cluster, state, host, cpus, reserved: vm(
        f"{cluster}-{vmid}",
        state=state,
        host=host,
        cpus=cpus,
        reserved_bytes=reserved * MIB,
        owner="ann" if cluster == "a" else "bob",
    ),
    st.integers(0, 5),
    st.sampled_from(["a", "b"]),
    st.sampled_from(STATES),
    st.sampled_from(HOSTS),
    st.integers(1, 4),
    st.integers(0, 128),
)


def _ticket_of(number: int, status: str, places: dict[str, int], cpus: int, mib: int) -> Ticket:
    vms = sum(places.values())
    return ticket(
        f"t{number}",
        status=status,
        places=places,
        vms=vms,
        cpus=vms * cpus,
        vm_bytes=mib * MIB,
        owner=["ann", "bob"][number % 2],
        cluster=["a", "b"][number % 2],
    )


tickets_of = st.builds(
    _ticket_of,
    st.integers(0, 4),
    st.sampled_from(["granted", "used"]),
    st.dictionaries(st.sampled_from(HOSTS), st.integers(1, 5), min_size=1),
    st.integers(1, 4),
    st.integers(0, 128),
)
measures = st.builds(
    lambda host, free, own: report(host, free, own),
    st.sampled_from(HOSTS),
    st.integers(0, 4096),
    st.dictionaries(
        st.sampled_from([f"{c}-{n}" for c in "ab" for n in range(6)]), st.integers(0, 200)
    ),
)
events: st.SearchStrategy[object] = st.one_of(
    vms_of,
    tickets_of,
    measures,
    st.sampled_from([f"forget {host}" for host in HOSTS]),
    st.sampled_from([f"vms/{c}-{n}" for c in "ab" for n in range(6)]),
    st.sampled_from([f"tickets/t{n}" for n in range(5)]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(events, max_size=40))
def test_sums_kept_by_changes_are_those_of_all_rows(happened: list[object]) -> None:
    kept = Capacity()
    rows: dict[str, Record] = {}
    last: dict[str, HostReport] = {}
    for event in happened:
        if isinstance(event, HostReport):
            kept.report(event)
            last[event.facts.name] = event
        elif isinstance(event, str) and event.startswith("forget "):
            kept.forget(event.removeprefix("forget "))
            last.pop(event.removeprefix("forget "), None)
        elif isinstance(event, str):
            kept.seen(event, rows.get(event), None)
            rows.pop(event, None)
        else:
            assert isinstance(event, (Vm, Ticket))
            key = f"vms/{event.name}" if isinstance(event, Vm) else f"tickets/{event.id}"
            kept.seen(key, rows.get(key), event)
            rows[key] = event
        _check(kept, rows, last)
    for key, record in rows.items():
        kept.seen(key, record, None)
    for sums in (kept.hosts, kept.owners, kept.clusters):
        assert all(one == Sum() for one in sums.values())


def _check(kept: Capacity, rows: dict[str, Record], last: dict[str, HostReport]) -> None:
    vms = [row for row in rows.values() if isinstance(row, Vm) and row.state in HELD]
    tickets = [t for t in rows.values() if isinstance(t, Ticket) and t.status == "granted"]

    def total(
        of_vm: Callable[[Vm], str], of_ticket: Callable[[Ticket, str], str]
    ) -> dict[str, Sum]:
        sums: dict[str, Sum] = collections.defaultdict(Sum)
        for one in vms:
            sums[of_vm(one)].add(1, one.cpus, one.reserved_bytes)
        for t in tickets:
            for host, count in t.places.items():
                cpus = t.cpus // t.vms
                sums[of_ticket(t, host)].add(count, count * cpus, count * t.vm_bytes)
        return dict(sums)

    def without_zero(sums: dict[str, Sum]) -> dict[str, Sum]:
        return {name: one for name, one in copy.deepcopy(sums).items() if one != Sum()}

    assert without_zero(kept.hosts) == total(lambda vm: vm.host, lambda ticket, host: host)
    assert without_zero(kept.owners) == total(
        lambda vm: vm.owner, lambda ticket, host: ticket.owner
    )
    assert without_zero(kept.clusters) == total(
        lambda vm: vm.cluster, lambda ticket, host: ticket.cluster
    )
    assert {room.name for room in kept.rooms()} == set(last)
    for host, said in last.items():
        own = {use.name: use.own_bytes for use in said.vms}
        there = [vm for vm in vms if vm.host == host]
        owed = sum(max(0, vm.reserved_bytes - own.get(vm.name, 0)) for vm in there)
        promised = sum(t.places.get(host, 0) * t.vm_bytes for t in tickets)
        room = kept.room(host)
        assert room is not None
        assert room.memory == said.facts.free_bytes - owed - promised
        assert sorted(kept.names_on(host)) == sorted(vm.name for vm in there)
