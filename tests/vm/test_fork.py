"""A machine forks: into many, again and again, deep, and what it costs in files."""

from __future__ import annotations

import concurrent.futures
import json
import signal

from tests.vm.machinery import Copper


def test_clones_have_the_masters_memory_processes_and_disk(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    copper.sh(
        master,
        "echo in-memory > /tmp/note; echo on-disk > /root/note; sync;"
        " sh -c 'while :; do sleep 1000; done' >/dev/null 2>&1 & echo $! > /tmp/pid",
    )
    clones = copper.clone(master, 16)
    assert clones == [f"a-{vmid}" for vmid in range(1, 17)]
    ask = "cat /tmp/note /root/note; kill -0 $(cat /tmp/pid) && gc vmid; hostname; gc ismaster; echo $?"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda vm: copper.sh(vm, ask).split(), [master, *clones]))
    for vmid, answer in enumerate(answers):
        is_master = "0" if vmid == 0 else "1"
        assert answer == ["in-memory", "on-disk", str(vmid), f"a-{vmid}", is_master]


def test_a_hundred_machines_from_one_call(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    clones = copper.clone(master, 100)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda vm: copper.sh(vm, "gc vmid"), clones))
    assert said == [f"{vmid}\n" for vmid in range(1, 101)]
    # a new host agent finds them all again
    copper.stop(signal.SIGKILL)
    copper.start()
    assert len(copper.client.statuses()) == 101
    assert {vm.state for vm in copper.client.vms("a")} == {"running"}


def test_what_one_machine_writes_no_other_sees(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    copper.sh(master, "echo first > /root/note; echo first > /tmp/note")
    one, two = copper.clone(master, 2)
    copper.sh(one, "echo second > /root/note; echo second > /tmp/note; sync")
    copper.sh(master, "echo third > /root/note; echo third > /tmp/note; sync")
    seen = [copper.sh(vm, "cat /root/note /tmp/note").split() for vm in (master, one, two)]
    assert seen == [["third"] * 2, ["second"] * 2, ["first"] * 2]


def test_gc_clone_prints_each_machines_own_vmid(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    said = copper.sh(master, "gc clone 3 | tee /root/said; echo $? >> /root/said; sync")
    assert said == "0\n"
    # the rest of the same script runs on in every clone
    for vmid in (1, 2, 3):
        wait = "until [ $(wc -l < /root/said) = 2 ]; do sleep 0.1; done; cat /root/said"
        assert copper.sh(f"a-{vmid}", wait).split() == [str(vmid), "0"]


def test_a_fork_of_a_fork_eight_deep(copper: Copper, micro: str) -> None:
    vm = copper.boot("a", micro)
    for generation in range(1, 9):
        copper.sh(vm, f"echo {generation} >> /root/trail; echo {generation} >> /tmp/trail")
        (vm,) = copper.clone(vm, 1)
        assert vm == f"a-{generation}"
    wanted = [str(generation) for generation in range(1, 9)]
    assert copper.sh(vm, "cat /root/trail").split() == wanted
    assert copper.sh(vm, "cat /tmp/trail").split() == wanted
    listed = json.loads(copper.sh(vm, "gc list --json"))
    assert [row["vmid"] for row in listed] == list(range(9))
    assert [row["parent"] for row in listed] == [None, *range(8)]


def test_fifty_forks_of_one_master_leave_short_chains(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    copper.sh(master, "dd if=/dev/urandom of=/root/blob bs=64k count=64 2>/dev/null; sync")
    digest = copper.sh(master, "sha256sum < /root/blob")
    for number in range(50):
        copper.sh(master, f"echo {number} > /root/count; sync")
        (clone,) = copper.clone(master, 1)
        assert copper.sh(clone, "cat /root/count; sha256sum < /root/blob") == f"{number}\n{digest}"
        copper.client.end(clone)
    status = copper.client.status(master)
    assert status.layers <= 10
    assert status.disks <= 16
    assert copper.sh(master, "cat /root/count; sha256sum < /root/blob") == f"49\n{digest}"


def test_machines_that_do_not_write_to_their_disk_keep_its_chain(
    copper: Copper, micro: str
) -> None:
    master = copper.boot("a", micro)
    copper.sh(master, "sync")
    copper.clone(master, 1)
    before = copper.client.status(master).disks
    for _ in range(3):
        copper.clone(master, 1)
    assert copper.client.status(master).disks == before


def test_two_machines_of_one_cluster_fork_at_once(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    others = [master, *copper.clone(master, 3)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda vm: copper.exec(vm, "gc", "clone", "2"), others))
    assert done == ["0\n"] * 4
    names = copper.vms("a")
    assert len(names) == len(set(names)) == 12
    assert len([vm for vm in copper.client.vms("a") if vm.parent == 0]) == 5


def test_a_bad_count_is_one_line_and_changes_nothing(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    for count in ("0", "-1", "1025", "99999999999999999999", "x", "1x", "", "1.5"):
        said = copper.client.run(master, ["gc", "clone", count])
        assert said.status in (2, 22), count
        assert said.stdout == b""
        assert len(said.stderr.decode().strip().splitlines()) == 1
    assert copper.vms("a") == [master]


def test_a_fork_that_does_not_fit_is_refused_and_the_master_works_on(
    copper: Copper, micro: str
) -> None:
    master = copper.boot("a", micro)
    said = copper.client.run(master, ["gc", "clone", "1024"])
    assert said.status == 16
    assert b"room for" in said.stderr
    assert copper.vms("a") == [master]
    assert len(copper.clone(master, 1)) == 1
