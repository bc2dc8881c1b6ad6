"""How many machines are held while a host's memory runs out, and that those who were are told of once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from copper.host.brake import HORIZON_S, Brake, how_many

MIB = 1 << 20
KEEP = 512 * MIB


class Host:
    """Machines that write so much each second while they are not held, and the brake that looks at them."""

    def __init__(self, vms: int, free_mib: float, each_mib: float) -> None:
        self.running = {f"a-{n}" for n in range(vms)}
        self.free, self.each = free_mib * MIB, each_mib * MIB
        self.now, self.told, self.least = 0.0, 0, self.free
        self.brake = Brake(KEEP, lambda: int(self.free), self._hold, self._told)
        self.brake.offer([f"a-{n}" for n in range(vms)])

    def _hold(self, name: str) -> bool:
        if name not in self.running:
            return False
        self.running.remove(name)
        return True

    def _told(self) -> None:
        self.told += 1

    def go(self, seconds: float, step_s: float = 0.02) -> None:
        until = self.now + seconds
        while self.now < until:
            self.brake.look(self.now, int(self.free))
            self.now += step_s
            self.free -= len(self.running) * self.each * step_s
            self.least = min(self.least, self.free)


def test_nobody_is_held_where_memory_lasts() -> None:
    host = Host(vms=100, free_mib=100_000, each_mib=5)
    host.go(5)
    assert len(host.running) == 100
    assert not host.told
    assert not host.brake.take()


def test_hundreds_that_write_at_once_leave_more_than_a_quarter() -> None:
    host = Host(vms=400, free_mib=2000, each_mib=2.5)  # a GiB each second
    host.go(10)
    assert host.least > KEEP // 4
    assert host.brake.take().keys() == {f"a-{n}" for n in range(400)} - host.running


def test_who_writes_little_is_held_one_by_one() -> None:
    host = Host(vms=100, free_mib=257, each_mib=0.05)
    host.go(0.5)
    assert len(host.running) == 99
    host.go(6)
    assert 94 < len(host.running) < 99


def test_memory_that_is_short_and_stays_as_it_is_costs_one() -> None:
    host = Host(vms=10, free_mib=200, each_mib=0)
    host.go(10)
    assert len(host.running) == 9


def test_the_first_in_order_are_held_and_told_once() -> None:
    host = Host(vms=400, free_mib=600, each_mib=2.5)
    while not host.told:
        host.go(0.02)
    held = host.brake.take()
    assert list(held) == [f"a-{n}" for n in range(len(held))]
    assert KEEP // 4 < held["a-0"] <= 600 * MIB
    assert host.brake.take() == {}


def test_who_has_settled_is_not_held_again_until_offered() -> None:
    host = Host(vms=1, free_mib=200, each_mib=0)
    host.go(0.1)
    assert host.brake.take().keys() == {"a-0"}
    host.brake.settled("a-0")
    host.running, host.free = {"a-0"}, 150 * MIB
    host.go(0.1)
    assert not host.brake.take()
    host.brake.offer(["a-0"])
    host.free = 140 * MIB
    host.go(0.1)
    assert host.brake.take().keys() == {"a-0"}


def test_who_has_ended_meanwhile_is_not_told_of() -> None:
    host = Host(vms=2, free_mib=200, each_mib=0)
    host.running.remove("a-0")
    host.go(0.1)
    assert not host.brake.take()


@given(st.integers(0, 2 * KEEP), st.floats(-1e10, 1e10), st.integers(0, 500), st.booleans())
def test_never_more_than_run_and_enough_for_what_is_being_lost(
    available: int, rate: float, running: int, fell: bool
) -> None:
    count = how_many(available, KEEP, rate, running, fell=fell)
    assert 0 <= count <= running
    if running:
        lost = max(0.0, rate) * HORIZON_S * (1 - count / running)
        assert lost <= max(0, available - KEEP // 8 * 3) + 1
