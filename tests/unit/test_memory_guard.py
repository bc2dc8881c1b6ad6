"""Who gives way when a host runs out of memory, as a pure decision."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from copper.host.memory_guard import Action, Holder, decide

MIB = 1 << 20
KEEP = 512 * MIB


def holder(name: str, own: int, reserved: int = 0, began: float = 0, paused: str = "") -> Holder:
    return Holder(name, own * MIB, reserved * MIB, began, paused)  # type: ignore[arg-type]


def verbs(actions: list[Action]) -> list[tuple[str, str]]:
    return [(action.verb, action.vm) for action in actions]


def test_nobody_is_touched_while_half_of_what_is_kept_is_free() -> None:
    assert decide(256 * MIB, KEEP, [holder("a-0", 4000)]) == []
    assert decide(511 * MIB, KEEP, [holder("a-0", 4000, paused="for-memory")]) == []


def test_the_youngest_that_has_more_than_was_reserved_for_it_is_paused_first() -> None:
    vms = [
        holder("a-1", 90, 32, 1),
        holder("a-2", 200, 64, 2),
        holder("a-3", 400, 480, 3),  # younger, and within what was reserved
    ]
    (action,) = decide(200 * MIB, KEEP, vms)
    assert (action.verb, action.vm) == ("pause", "a-2")
    assert action.why == (
        "its host is out of memory: 200 MiB are free of 512 that it keeps,"
        " and this VM has 136 MiB more than was reserved for it"
    )


def test_a_guaranteed_vm_is_never_chosen() -> None:
    sure = dataclasses.replace(holder("a-0", 5000, 4096, 9), guaranteed=True)
    assert decide(200 * MIB, KEEP, [sure]) == decide(0, KEEP, [sure]) == []
    assert verbs(decide(0, KEEP, [sure, holder("a-1", 1, 32)])) == [("end", "a-1")]


def test_the_youngest_is_first_among_equals() -> None:
    vms = [holder("a-0", 90, 32, 1), holder("a-1", 90, 32, 3), holder("a-2", 90, 32, 2)]
    assert verbs(decide(200 * MIB, KEEP, vms)) == [("pause", "a-1")]


def test_who_stands_already_is_not_paused_again() -> None:
    vms = [holder("a-0", 90, 32), holder("a-1", 500, paused="asked")]
    assert verbs(decide(200 * MIB, KEEP, vms)) == [("pause", "a-0")]
    assert decide(200 * MIB, KEEP, vms[1:]) == []


def test_below_a_quarter_as_many_are_ended_as_give_enough_back() -> None:
    vms = [
        holder("a-0", 100, 4, 3),
        holder("a-1", 90, 4, 2),
        holder("a-2", 40, 4, 1, paused="for-memory"),
    ]
    assert verbs(decide(100 * MIB, KEEP, vms)) == [("end", "a-0"), ("end", "a-1")]
    assert verbs(decide(0, KEEP, vms[2:])) == [("end", "a-2")]


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
        if action.verb == "pause":
            assert not vm.paused
            assert KEEP // 4 <= available < KEEP // 2
        elif action.verb == "unpause":
            assert vm.paused == "for-memory"
            assert available >= KEEP
        else:
            assert available < KEEP // 4
            assert action.why
    if actions and actions[0].verb == "end":
        # nobody is ended whose memory was not needed
        before = sum(by_name[action.vm].own_bytes for action in actions[:-1])
        assert available + before < KEEP // 2
