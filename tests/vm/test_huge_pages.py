"""Huge pages of VMs that wrote much: they come by themselves, cost nothing, and go through a fork."""

from __future__ import annotations

import pytest

from copper.vmm.paging import gives_huge_pages
from tests.unit.test_native_huge import huge_bytes
from tests.vm.machinery import Copper
from tests.vm.test_whole_clusters import eventually

MIB = 1 << 20
WROTE = 40 * MIB
SUM = "sha256sum /run/big"


def test_a_clone_that_writes_much_gets_huge_pages_and_forks(copper: Copper, micro: str) -> None:
    if not gives_huge_pages():
        pytest.skip("this host has no huge pages for those who ask")
    master = copper.boot("a", micro)
    busy, idle = copper.clone(master, 2)
    told = copper.sh(busy, f"head -c {WROTE} /dev/urandom > /run/big; {SUM}")
    # a few: in a guest as small as this layers lie nearly everywhere
    eventually(lambda: huge_bytes(copper.client.status(busy).pid) >= 2 * MIB)
    assert huge_bytes(copper.client.status(idle).pid) == 0
    assert copper.client.status(busy).own_bytes < WROTE + 16 * MIB
    assert copper.sh(busy, SUM) == told
    clones = copper.clone(busy, 3)
    for vm in (busy, *clones):
        assert copper.sh(vm, SUM) == told
    copper.sh(clones[0], "head -c 1000000 /dev/zero | dd of=/run/big conv=notrunc 2>/dev/null")
    assert [copper.sh(vm, SUM) == told for vm in (busy, *clones)] == [True, False, True, True]
