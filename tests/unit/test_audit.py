"""The audit finds nothing in a world that agrees with itself, and whatever one thing is broken, that one thing."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from copper.controller.audit import findings
from tests.unit.accounts import cluster, vm
from tests.unit.audit_breaks import BREAKS, Break, row_vanished, vm_not_paused, vm_vanished
from tests.unit.audit_worlds import World, worlds


@given(worlds())
def test_a_world_that_agrees_has_no_differences(world: World) -> None:
    assert world.compare() == []


# some worlds have nothing that can be broken so
SOME = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


@pytest.mark.parametrize("broken", BREAKS, ids=lambda b: b.__qualname__.partition(".")[0])
@SOME
@given(data=st.data())
def test_what_is_broken_is_named_and_nothing_else(broken: Break, data: st.DataObject) -> None:
    world = data.draw(worlds())
    thing, name, host, mended = broken(world, data)
    found = world.compare()
    assert [(one.thing, one.name, one.host) for one in found] == [(thing, name, host)], found
    assert bool(found[0].mend) == mended, found
    assert found[0].says and "\n" not in found[0].says


@SOME
@given(data=st.data(), broken=st.sampled_from([vm_vanished, row_vanished, vm_not_paused]))
def test_what_is_being_worked_on_is_no_difference(data: st.DataObject, broken: Break) -> None:
    world = data.draw(worlds())
    _, name, _, _ = broken(world, data)
    world.busy = frozenset([world.view().cluster_of(name)])
    assert world.compare() == []


def test_a_hundred_vms_on_each_of_a_hundred_hosts_are_compared_at_once() -> None:
    world = World()
    for number in range(100):
        world.add_host(f"h{number}")
        world.clusters[f"c{number}"] = cluster(f"c{number}")
        for vmid in range(100):
            world.add_vm(vm(f"c{number}-{vmid}", host=f"h{number}"))
    began = time.perf_counter()
    assert findings(world.view(), world.inventories()) == []
    assert time.perf_counter() - began < 5  # seconds; it takes a tenth of one
