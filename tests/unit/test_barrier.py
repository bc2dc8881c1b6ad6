"""The barrier of a ticket, decided without anybody who waits."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copper.controller.barrier import Barrier, named, time_out
from copper.model.errors import BadInput


def test_all_go_on_when_the_last_is_there() -> None:
    barrier = Barrier([0, 1, 2])
    assert barrier.arrive(1, "one", 7) == set()
    assert barrier.arrive(0, "caller", 7) == set()
    assert barrier.missing() == [2]
    assert barrier.arrive(2, "two", 7) == {"one", "caller", "two"}
    assert barrier.is_empty


def test_one_round_after_the_other() -> None:
    barrier = Barrier([0, 1])
    for call in range(1, 50):
        assert barrier.arrive(call % 2, ("first", call), call) == set()
        both = {("first", call), ("second", call)}
        assert barrier.arrive(1 - call % 2, ("second", call), call) == both


def test_one_that_ends_is_not_waited_for() -> None:
    barrier = Barrier([0, 1, 2])
    barrier.arrive(0, "caller", 1)
    barrier.arrive(1, "one", 1)
    assert barrier.end(2) == {"caller", "one"}
    assert barrier.end(1) == set()
    assert barrier.arrive(0, "again", 2) == {"again"}


def test_one_that_ends_while_it_waits_does_not_go_on() -> None:
    barrier = Barrier([0, 1, 2])
    barrier.arrive(1, "one", 1)
    assert barrier.end(1) == set()
    barrier.arrive(0, "caller", 1)
    assert barrier.arrive(2, "two", 1) == {"caller", "two"}


def test_the_end_of_the_last_who_waits_lets_nobody_through() -> None:
    barrier = Barrier([0, 1])
    barrier.arrive(1, "one", 1)
    assert barrier.end(1) == set()
    assert barrier.missing() == [0]


def test_one_that_leaves_is_waited_for_again() -> None:
    barrier = Barrier([0, 1])
    barrier.arrive(0, "caller", 1)
    barrier.leave(0, "caller")
    barrier.leave(0, "caller")
    assert barrier.arrive(1, "one", 1) == set()
    assert barrier.missing() == [0]
    assert barrier.arrive(0, "caller again", 2) == {"one", "caller again"}


def test_a_vm_is_there_while_one_of_its_programs_is() -> None:
    barrier = Barrier([0, 1])
    barrier.arrive(0, "a", 1)
    barrier.arrive(0, "b", 2)
    barrier.leave(0, "a")
    assert barrier.missing() == [1]
    assert barrier.arrive(1, "one", 1) == {"b", "one"}


def test_who_asks_again_after_its_answer_was_lost_goes_on() -> None:
    barrier = Barrier([0, 1])
    barrier.arrive(0, "caller", 5)
    barrier.arrive(1, "one", 9)
    assert barrier.arrive(1, "the same, over a new host agent", 9) == {
        "the same, over a new host agent"
    }
    assert barrier.arrive(1, "the next round", 10) == set()
    assert barrier.arrive(0, "the next round too", 6) == {"the next round", "the next round too"}


def test_who_asks_again_while_it_waits_is_there_once() -> None:
    barrier = Barrier([0, 1])
    barrier.arrive(1, "one", 9)
    assert barrier.arrive(1, "one again", 9) == set()
    barrier.leave(1, "one")
    assert barrier.missing() == [0]
    assert barrier.arrive(0, "caller", 1) == {"one again", "caller"}


def test_one_that_is_there_after_all_is_needed() -> None:
    barrier = Barrier([0, 1])
    barrier.come(2)
    barrier.arrive(0, "caller", 1)
    assert barrier.arrive(1, "one", 1) == set()
    assert barrier.missing() == [2]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_order_does_not_matter(order: tuple[int, ...]) -> None:
    barrier = Barrier(range(4))
    for vmid in order[:-1]:
        assert barrier.arrive(vmid, vmid, 1) == set()
    assert barrier.arrive(order[-1], order[-1], 1) == {0, 1, 2, 3}


@given(st.lists(st.tuples(st.sampled_from("ale"), st.integers(0, 3)), max_size=60))
def test_nobody_goes_on_alone_and_nobody_waits_for_nobody(steps: list[tuple[str, int]]) -> None:
    barrier = Barrier(range(4))
    alive, waiting = set(range(4)), {}
    for number, (what, vmid) in enumerate(steps):
        passed: set[object] = set()
        if what == "a" and vmid in alive and vmid not in waiting:
            waiting[vmid] = number
            passed = barrier.arrive(vmid, number, number)
        elif what == "l" and vmid in waiting:
            barrier.leave(vmid, waiting.pop(vmid))
        elif what == "e" and vmid in alive:
            alive.discard(vmid)
            waiting.pop(vmid, None)
            passed = barrier.end(vmid)
        if passed:
            assert passed == set(waiting.values())
            assert waiting.keys() == alive
            waiting.clear()
        assert not waiting or waiting.keys() != alive
        assert barrier.missing() == sorted(alive - waiting.keys())


@pytest.mark.parametrize(
    ("vmids", "says"),
    [
        ([3], "VM 3"),
        ([1, 2], "VMs 1 and 2"),
        ([1, 2, 5], "VMs 1, 2 and 5"),
        (list(range(10)), "VMs 0, 1, 2, 3, 4, 5, 6, 7, 8 and 9"),
        (list(range(100)), "VMs 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 90 more"),
    ],
)
def test_who_is_missing_is_named(vmids: list[int], says: str) -> None:
    assert named(vmids) == says


@pytest.mark.parametrize("wrong", [-1, "5", True, 1 << 31, 1.5])
def test_a_time_out_that_is_none_is_named(wrong: object) -> None:
    with pytest.raises(BadInput, match="sync: TIMEOUT_MS: expected milliseconds"):
        time_out({"timeout_ms": wrong}, "sync")
    assert time_out({}, "sync") is None
    assert time_out({"timeout_ms": 0}, "sync") == 0
