"""What a fork must not break in programs that keep a secret or a lease, or wait for a time: sixteen clones and more."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.vm.machinery import ROOT, Copper

MANY = 16
WAIT = 'ends=$(($(date +%s) + 120)); until {}; do [ "$(date +%s)" -lt $ends ] || exit 1; usleep 50000; done'


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs, for any guest."""
    program = tmp_path_factory.mktemp("programs") / "forked"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2"]
    source = ROOT / "tests/vm/programs/forked.c"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, *flags, "-static", "-o", program, source], check=True)
    return program


def start(copper: Copper, vm: str, *words: str) -> None:
    """Runs one of the programs in the background."""
    copper.sh(vm, f"setsid /root/forked {' '.join(words)} >/tmp/{words[0]}.log 2>&1 &")


def wait(copper: Copper, vm: str, condition: str) -> None:
    copper.sh(vm, WAIT.format(condition))


def renewed(copper: Copper, vms: list[str]) -> list[str]:
    """Each VM's token, once it is of the VM's own generation."""
    own = '[ "$(cut -d" " -f1 /tmp/token)" = "$(gc generation)" ]'
    return [
        said.split()[1] for said in copper.everywhere(vms, f"{WAIT.format(own)}; cat /tmp/token")
    ]


def test_a_program_with_a_cached_token_renews_it(copper: Copper, micro: str, forked: Path) -> None:
    master = copper.boot("a", micro)
    copper.client.push(master, forked, "/root/")
    start(copper, master, "token", "/tmp/token")
    wait(copper, master, "[ -s /tmp/token ]")
    first = copper.sh(master, "cat /tmp/token")
    vms = [master, *copper.clone(master, MANY)]
    tokens = renewed(copper, vms)
    assert len(set(tokens)) == len(vms)
    assert copper.sh(master, "cat /tmp/token") == first  # it is who it was
    second = renewed(copper, copper.clone(vms[3], 2))
    assert len({*tokens, *second}) == len(vms) + 2


def test_a_lease_holder_that_is_cloned_is_one_writer_still(
    copper: Copper, micro: str, forked: Path
) -> None:
    master = copper.boot("a", micro)
    copper.client.push(master, forked, "/root/")
    (store,) = copper.clone(master, 1)
    start(copper, store, "store", "7000", "/tmp/written")
    wait(copper, store, "netstat -tln | grep -q :7000")
    address = copper.sh(store, "gc my-ip").strip()
    start(copper, master, "hold", address, "7000", "/tmp/fenced")
    wait(copper, store, "[ $(grep -c accepted /tmp/written) -ge 5 ]")
    clones = copper.clone(master, MANY)
    before = int(copper.sh(store, "grep -c accepted /tmp/written"))
    fenced = copper.everywhere(clones, f"{WAIT.format('[ -s /tmp/fenced ]')}; cat /tmp/fenced")
    vmids = [clone.rpartition("-")[2] for clone in clones]
    # the second call's, all of them: it is the vmid beside it that tells them from each other
    assert [said.split() for said in fenced] == [["2", vmid] for vmid in vmids]
    wait(copper, store, f"[ $(grep -c accepted /tmp/written) -ge {before + 5} ]")
    assert copper.sh(master, "ls /tmp/fenced 2>/dev/null; true") == ""
    lines = [line.split() for line in copper.sh(store, "cat /tmp/written").splitlines()]
    accepted = [line[1:] for line in lines if line[0] == "accepted"]
    assert {tuple(line[:3]) for line in accepted} == {("10.0.0.1", "0", "0")}
    numbers = [int(line[3]) for line in accepted]
    assert numbers == list(range(1, len(numbers) + 1))  # none of them twice, none lost
    refused = {(line[1], line[2], line[3]) for line in lines if line[0] == "fenced"}
    assert refused == {(f"10.0.0.{int(vmid) + 1}", "2", vmid) for vmid in vmids}


COUNTING = """
setsid sh -c 'sleep 1800; echo early >/tmp/early' >/dev/null 2>&1 &
count='n=0; while :; do n=$((n + 1)); echo $n >/tmp/new; mv /tmp/new /tmp/count; sleep 0.2; done'
setsid sh -c "$count" >/dev/null 2>&1 &
until [ -s /tmp/count ]; do usleep 50000; done
"""
# an hour passes for whoever goes by the wall clock
AN_HOUR_AGO = (
    "date -s @$(($(date +%s) - 3600)) >/dev/null; cut -d' ' -f1 /proc/uptime; dmesg | wc -l"
)
# a timer that took less than a second is a processor that others were given, which an emulated one often is
WRONG = re.compile(
    r"lockup|stall|hung|unstable|skew|watchdog|Call Trace|WARNING|BUG|hrtimer: interrupt took \d{10}",
    re.I,
)


@pytest.mark.timeout(900)  # seventeen machines go to disk and come back
def test_an_hour_later_timers_run_on_and_no_kernel_warns(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    copper.sh(master, COUNTING)
    copper.clone(master, MANY)
    vms = copper.vms("a")
    assert len(vms) == MANY + 1
    began = time.monotonic()
    before = [said.split() for said in copper.everywhere(vms, AN_HOUR_AGO)]
    copper.client.suspend("a")
    assert copper.networks() == []
    copper.client.resume("a")
    for vm, (uptime, lines) in zip(vms, before, strict=True):
        asked = time.time()
        clock = float(copper.sh(vm, "date +%s"))
        assert asked - 2 <= clock <= time.time() + 1, vm
        now = float(copper.sh(vm, "cut -d' ' -f1 /proc/uptime"))
        assert float(uptime) <= now <= float(uptime) + (time.monotonic() - began) + 2, vm
        count = copper.sh(vm, "cat /tmp/count").strip()
        wait(copper, vm, f"[ $(cat /tmp/count) -gt $(({count} + 2)) ]")  # what sleeps wakes up
        assert copper.sh(vm, "ls /tmp/early 2>/dev/null; true") == "", vm
        said = copper.sh(vm, f"dmesg | tail -n +$(({lines} + 1))")
        assert not WRONG.search(said), (vm, said)
