"""What is told of VMs' memory: `gc stat`, the API, accounts and metrics say the same, and it is what the VMs wrote."""

from __future__ import annotations

import http.client
import json
import re
import socket
from pathlib import Path

import pytest

from tests.vm.machinery import Copper, a_copper
from tests.vm.test_whole_clusters import eventually

MIB = 1 << 20
WROTE = 24 * MIB
IDLE = 15 * MIB  # at most, beside what it was told to write


def metrics(copper: Copper) -> str:
    connection = http.client.HTTPConnection("copper")
    with socket.socket(socket.AF_UNIX) as connection.sock:
        connection.sock.connect(str(copper.settings.api_socket))
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()


def own_of_host(copper: Copper) -> float:
    (found,) = re.findall(r"^copper_host_memory_own_bytes\{.*\} (\S+)$", metrics(copper), re.M)
    return float(found)


def told_what_is(copper: Copper) -> bool:
    """Whether the last report, half a second old at most, has what VMs have now: not while they are still busy."""
    own = sum(vm.own_bytes for vm in copper.client.statuses())
    return own_of_host(copper) == pytest.approx(own, rel=0.01)


def test_all_tell_the_same_and_it_is_what_was_written(accel: str, micro: str) -> None:
    with a_copper(accel, COPPER_REPORT_S="0.5") as copper:
        master = copper.boot("a", micro)
        clones = copper.clone(master, 3)
        for clone in clones:
            copper.sh(clone, f"head -c {WROTE} /dev/urandom > /run/big")

        eventually(lambda: told_what_is(copper))
        stat = {f"a-{vm['vmid']}": vm for vm in json.loads(copper.sh(clones[0], "gc stat --json"))}
        assert list(stat) == clones
        copper.client.pause("a")  # from now on nobody writes
        vms = {vm.name: vm for vm in copper.client.statuses()}
        for name in clones:
            assert WROTE <= vms[name].own_bytes < WROTE + IDLE
            assert stat[name]["own"] == pytest.approx(vms[name].own_bytes, abs=2 * MIB)
            assert stat[name]["shared"] == vms[name].shared_bytes > 0
            assert stat[name]["nominal"] == vms[name].shape.memory_bytes
        own = sum(vm.own_bytes for vm in vms.values())
        eventually(lambda: told_what_is(copper))
        (before,) = copper.client.usage("a")

        def counted() -> bool:
            (after,) = copper.client.usage("a")
            seconds = (after.vm_s - before.vm_s) / len(vms)
            if seconds < 3:
                return False
            each = (after.own_byte_s - before.own_byte_s) / seconds
            assert each == pytest.approx(own, rel=0.01)
            return True

        eventually(counted)


def test_pages_may_be_merged_when_that_is_asked_for(accel: str, micro: str) -> None:
    for asked in ("0", "1"):
        with a_copper(accel, COPPER_MERGE=asked) as copper:
            master = copper.boot("a", micro)
            for vm in (master, *copper.clone(master, 1)):
                told = Path(f"/proc/{copper.client.status(vm).pid}/ksm_stat")
                if not told.exists() or "ksm_merge_any" not in told.read_text():
                    pytest.skip("this kernel does not say what may be merged")
                assert f"ksm_merge_any: {'yes' if asked == '1' else 'no'}" in told.read_text()
