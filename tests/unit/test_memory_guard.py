"""Who gives way when a host runs out of memory, as a pure decision."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from copper.host.memory_guard import Action, Holder, decide, in_order

MIB = 1 << 20
KEEP = 512 * MIB


def holder(name: str, own: int, reserved: int = 0, began: float = 0, paused: str = "") -> Holder:
    return Holder(name, own * MIB, reserved * MIB, began, paused)  # type: ignore[arg-type]


def verbs(actions: list[Action]) -> list[tuple[str, str]]:
    return [(action.verb, action.vm) for action in actions]


def test_nobody_is_touched_while_a_quarter_of_what_is_kept_is_free() -> None:
    assert decide(128 * MIB, KEEP, [holder("a-0", 4000)]) == []
    assert decide(511 * MIB, KEEP, [holder("a-0", 4000, paused="for-memory")]) == []


def test_the_youngest_that_has_more_than_was_reserved_for_it_gives_way_first() -> None:
    vms = [
        holder("a-1", 90, 32, 1),
        holder("a-2", 200, 64, 2),
        holder("a-3", 400, 480, 3),  # younger, and within what was reserved
        holder("a-4", 90, 32, 1),
    ]
    assert [vm.name for vm in in_order(vms)] == ["a-2", "a-1", "a-4", "a-3"]


def test_a_guaranteed_vm_is_never_chosen() -> None:
    sure = dataclasses.replace(holder("a-0", 5000, 4096, 9), guaranteed=True)
    assert not in_order([sure])
    assert not decide(0, KEEP, [sure])
    assert verbs(decide(0, KEEP, [sure, holder("a-1", 1, 32)])) == [("end", "a-1")]


def test_below_a_quarter_as_many_are_ended_as_give_enough_back() -> None:
    vms = [
        holder("a-0", 100, 4, 3),
        holder("a-1", 90, 4, 2),
        holder("a-2", 40, 4, 1, paused="for-memory"),
    ]
    assert verbs(decide(100 * MIB, KEEP, vms)) == [("end", "a-0"), ("end", "a-1")]
    assert verbs(decide(0, KEEP, vms[2:])) == [("end", "a-2")]


def test_who_is_ended_is_told_why() -> None:
    (action,) = decide(100 * MIB, KEEP, [holder("a-2", 200, 64)])
    assert action.why == (
        "its host is out of memory: 100 MiB are free of 512 that it keeps,"
        " and this VM has 136 MiB more than was reserved for it"
    )


def test_of_many_that_stand_a_share_goes_on_at_once() -> None:
    vms = [holder(f"a-{n}", 10, 4, n, paused="for-memory") for n in range(40)]
    assert verbs(decide(2 * KEEP, KEEP, vms)) == [("unpause", f"a-{n}") for n in range(3)]
    assert verbs(decide(KEEP, KEEP, vms)) == [("unpause", "a-0")]


def test_nobody_goes_on_while_memory_goes() -> None:
    vms = [holder("a-0", 100, 4, 2, paused="for-memory")]
    assert decide(600 * MIB, KEEP, vms, rate=200 * MIB) == []
    assert verbs(decide(600 * MIB, KEEP, vms, rate=-200 * MIB)) == [("unpause", "a-0")]


def test_where_all_stand_the_youngest_are_ended_until_the_others_can_go_on() -> None:
    vms = [holder(f"a-{n}", 100, 4, n, paused="for-memory") for n in range(4)]
    assert decide(200 * MIB, KEEP, vms) == []
    assert verbs(decide(200 * MIB, KEEP, vms, stuck=True)) == [("end", f"a-{n}") for n in (3, 2, 1)]
    assert verbs(decide(400 * MIB, KEEP, vms, stuck=True)) == [("end", "a-3"), ("end", "a-2")]
    assert verbs(decide(KEEP, KEEP, vms, stuck=True)) == [("unpause", "a-0")]


def test_the_last_one_is_not_ended_for_nobody() -> None:
    vms = [holder("a-0", 100, 4, 0, paused="for-memory")]
    assert decide(200 * MIB, KEEP, vms, stuck=True) == []


def test_what_was_paused_for_memory_goes_on_one_by_one_the_eldest_first() -> None:
    vms = [
        holder("a-0", 100, 4, 2, paused="for-memory"),
        holder("a-1", 90, 4, 1, paused="for-memory"),
        holder("a-2", 10, 4, 0, paused="asked"),
    ]
    assert verbs(decide(512 * MIB, KEEP, vms)) == [("unpause", "a-1")]


holders = st.lists(
    st.builds(
        Holder,
        name=st.uuids().map(str),
        own_bytes=st.integers(0, 4096 * MIB),
        reserved_bytes=st.integers(0, 4096 * MIB),
        began=st.floats(0, 100),
        paused=st.sampled_from(["", "asked", "for-memory"]),
        guaranteed=st.booleans(),
    ),
    max_size=20,
)


@given(st.integers(0, 2 * KEEP), holders)
def test_each_is_told_one_thing_that_fits_its_state(available: int, vms: list[Holder]) -> None:
    actions = decide(available, KEEP, vms)
    by_name = {vm.name: vm for vm in vms}
    assert len({action.vm for action in actions}) == len(actions)
    for action in actions:
        vm = by_name[action.vm]
        assert not vm.guaranteed
        if action.verb == "unpause":
            assert vm.paused == "for-memory"
            assert available >= KEEP
        else:
            assert available < KEEP // 4
            assert action.why
    if actions and actions[0].verb == "end":
        # nobody is ended whose memory was not needed
        before = sum(by_name[action.vm].own_bytes for action in actions[:-1])
        assert available + before < KEEP // 2
