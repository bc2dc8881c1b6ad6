"""VMs that are ended in the middle of their forks: all is done or nothing is left, whenever it comes."""

from __future__ import annotations

import threading

import pytest

from copper.model.errors import Conflict, NotFound
from tests.vm.machinery import Copper, a_copper

ROUNDS = 24
STEP_S = 0.002  # from one round to the next a VM ends so much later: a fork takes some 40 ms


@pytest.mark.parametrize("copies", ["1", "0"])
def test_a_vm_that_is_killed_in_its_fork_leaves_nothing(
    accel: str, micro: str, copies: str
) -> None:
    with a_copper(accel, COPPER_COPIES=copies) as copper:
        master = copper.boot("a", micro)
        forked = [killed_in_its_fork(copper, master, STEP_S * turn) for turn in range(ROUNDS)]
        assert not all(forked)
        assert copper.client.audit() == []
        assert copper.vms("a")[0] == master
        assert copper.sh(copper.clone(master, 1)[0], "echo runs") == "runs\n"


def killed_in_its_fork(copper: Copper, master: str, after_s: float) -> bool:
    """Whether a clone was forked, that was told to end so much later."""
    (clone,) = copper.client.clone_vm(master, count=1)
    timer = threading.Timer(after_s, copper.client.kill_vm, [clone.name])
    timer.start()
    try:
        copper.client.clone_vm(clone.name, count=1)
    except (Conflict, NotFound):
        return False
    finally:
        timer.join()
    return True
