"""Who waits is served first come, first served, with fairness between users, and nobody starves."""

from __future__ import annotations

import collections

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copper.controller.line import Line, Waiting

Ask = tuple[str, int]  # who, how many


class Counter:
    """What there is to have, who has what of it, and in what order they got it."""

    def __init__(
        self, free: int, quotas: dict[str, int] | None = None, ever: int | None = None
    ) -> None:
        self.free = free
        self.ever = free if ever is None else ever  # of what an empty system would have
        self.quotas = quotas or {}
        self.held: dict[str, int] = collections.Counter()
        self.line: Line[int] = Line()
        self.served: list[Ask] = []

    def join(self, *asks: Ask) -> list[Waiting[int]]:
        return [self.line.join(owner, wants) for owner, wants in asks]

    def serve(self) -> int:
        return self.line.serve(lambda: self.held, self._grant, self._steps_aside)

    def _over(self, one: Waiting[int]) -> bool:
        return self.held[one.owner] + one.request > self.quotas.get(one.owner, 10**9)

    def _grant(self, one: Waiting[int]) -> bool:
        if self._over(one) or one.request > self.free:
            return False
        self.free -= one.request
        self.held[one.owner] += one.request
        self.served.append((one.owner, one.request))
        return True

    def _steps_aside(self, one: Waiting[int]) -> bool:
        return self._over(one) or one.request > self.ever

    def end(self, owner: str, count: int) -> None:
        self.held[owner] -= count
        self.free += count


def test_of_one_user_who_came_first_is_served_first() -> None:
    counter = Counter(100)
    counter.join(("ann", 3), ("ann", 1), ("ann", 2))
    assert counter.serve() == 3
    assert counter.served == [("ann", 3), ("ann", 1), ("ann", 2)]
    assert len(counter.line) == 0


def test_who_holds_less_is_served_first() -> None:
    counter = Counter(100)
    counter.held["ann"] = 10
    counter.join(("ann", 4), ("bob", 4), ("cat", 4), ("bob", 4))
    counter.serve()
    assert [who for who, _ in counter.served] == ["bob", "cat", "bob", "ann"]


def test_users_who_hold_the_same_take_turns() -> None:
    counter = Counter(100)
    counter.join(*[("ann", 2)] * 3, *[("bob", 2)] * 3)
    counter.serve()
    assert [who for who, _ in counter.served] == ["ann", "bob"] * 3


def test_a_hundred_requests_of_one_do_not_keep_another_waiting() -> None:
    counter = Counter(0, ever=100)
    counter.join(*[("ann", 1)] * 100, ("bob", 1))
    counter.serve()
    counter.free += 2
    assert counter.serve() == 2
    assert counter.served == [("ann", 1), ("bob", 1)]


def test_one_that_cannot_be_met_now_holds_back_those_behind_it() -> None:
    counter = Counter(3, ever=10)
    counter.join(("ann", 4), ("bob", 1), ("ann", 1))
    assert counter.serve() == 0
    counter.free += 2
    assert counter.serve() == 2
    assert counter.served == [("ann", 4), ("bob", 1)]


def test_one_who_holds_less_is_in_front_of_one_who_waits_longer() -> None:
    counter = Counter(3, ever=10)
    counter.held["ann"] = 1
    counter.join(("ann", 4), ("bob", 1))
    assert counter.serve() == 1
    assert counter.served == [("bob", 1)]


@pytest.mark.parametrize("why", ["over its quota", "more than there ever is"])
def test_one_that_waits_for_nothing_of_others_holds_back_nobody(why: str) -> None:
    quotas = {"ann": 3} if why == "over its quota" else {}
    counter = Counter(10, quotas)
    counter.join(("ann", 4 if quotas else 11), ("bob", 2), ("ann", 1))
    assert counter.serve() == 2
    assert counter.served == [("bob", 2), ("ann", 1)]
    assert len(counter.line) == 1


def test_one_that_stepped_aside_is_served_when_its_quota_is_raised() -> None:
    counter = Counter(10, {"ann": 0})
    counter.join(("ann", 4))
    assert counter.serve() == 0
    counter.quotas.clear()
    assert counter.serve() == 1


def test_who_leaves_holds_back_nobody_and_may_leave_twice() -> None:
    counter = Counter(3, ever=10)
    (first, _) = counter.join(("ann", 4), ("bob", 1))
    counter.line.leave(first)
    counter.line.leave(first)
    assert counter.serve() == 1
    assert counter.served == [("bob", 1)]


def test_who_comes_while_others_are_served_has_a_place_behind_them() -> None:
    counter = Counter(10)
    counter.join(("ann", 1), ("ann", 1))

    def grant(one: Waiting[int]) -> bool:
        if not counter.served:
            counter.line.join("ann", 7)
        return counter._grant(one)

    assert counter.line.serve(lambda: counter.held, grant, counter._steps_aside) == 3
    assert counter.served == [("ann", 1), ("ann", 1), ("ann", 7)]


owners = st.sampled_from(["ann", "bob", "cat"])
asks = st.lists(st.tuples(owners, st.integers(1, 12)), max_size=20)


@settings(max_examples=500, deadline=None)
@given(asks, st.integers(0, 30), st.dictionaries(owners, st.integers(0, 12)))
def test_nothing_is_given_twice_and_of_each_user_the_order_is_kept(
    asked: list[Ask], free: int, quotas: dict[str, int]
) -> None:
    counter = Counter(free, quotas, ever=10)
    counter.join(*asked)
    served = counter.serve()
    assert counter.free >= 0
    assert all(counter.held[who] <= quotas[who] for who in quotas)
    assert served == len(counter.served) == len(asked) - len(counter.line)
    # whoever waits behind another of the same user does so because that one was skipped for good reason
    left = counter.line.order(counter.held)
    blocked = next((one for one in left if not counter._steps_aside(one)), None)
    if blocked is None:
        return
    assert blocked.request > counter.free, "somebody waits who could be served"


@settings(max_examples=300, deadline=None)
@given(asks, st.integers(10, 15), st.lists(st.integers(0, 100), max_size=200))
def test_nobody_starves(asked: list[Ask], whole: int, choices: list[int]) -> None:
    """Each request that the system could meet when empty is met once those before it have ended."""
    counter = Counter(whole)
    counter.join(*asked)
    counter.serve()
    running = list(counter.served)
    for choice in [*choices, *[0] * 40]:
        if not running:
            break
        seen = len(counter.served)
        who, count = running.pop(choice % len(running))
        counter.end(who, count)
        counter.serve()
        running += counter.served[seen:]
    met = [(who, wants) for who, wants in asked if wants <= whole]
    if not running:
        assert sorted(counter.served) == sorted(met)


def test_a_large_request_is_met_though_small_ones_keep_coming() -> None:
    counter = Counter(8)
    counter.join(*[("ann", 1)] * 8)
    counter.serve()
    counter.join(("bob", 8))
    for _ in range(8):  # bob holds nothing: what comes back is kept until it suffices
        counter.join(("ann", 1))
        counter.end("ann", 1)
        counter.serve()
    assert counter.served[8] == ("bob", 8)
