"""Whole virtual clusters of real machines: paused, limited, suspended to disk and back, as a host does it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from copper.host.cgroups import instance_of, read_fields
from copper.model.errors import Conflict, CopperError, NoRoom, Refused
from tests.vm.machinery import Copper, a_copper

MIB = 1 << 20
# a program that counts, and shows where it is by a file in memory
COUNTS = "n=0; while :; do n=$((n+1)); echo $n > /tmp/m; mv /tmp/m /tmp/n; sleep 0.4; done"


def host(copper: Copper, method: str, path: str, body: object = None) -> object:
    """A call to the host agent, as the controller makes it."""
    return copper.client.call(method, f"/host/v1{path}", body)


def eventually(true: Callable[[], bool], within_s: float = 300) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline


def count(copper: Copper, vm: str) -> int:
    return int(copper.sh(vm, "cat /tmp/n"))


def start_counting(copper: Copper, vm: str) -> None:
    copper.sh(vm, f"echo 0 > /tmp/n; setsid sh -c '{COUNTS}' >/dev/null 2>&1 </dev/null &")
    eventually(lambda: count(copper, vm) > 0)


def uses(copper: Copper) -> dict[str, dict[str, float]]:
    report = host(copper, "GET", "/report")
    assert isinstance(report, dict)
    return {use["name"]: use for use in report["vms"]}


def groups(copper: Copper) -> list[Path]:
    below = f"copper/{instance_of(copper.settings.run_dir)}/*"
    return [path for path in Path("/sys/fs/cgroup").rglob(below) if path.is_dir()]


def test_a_paused_vm_stands_still_also_over_a_new_agent(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    start_counting(copper, master)
    for _ in range(2):
        assert host(copper, "POST", f"/vms/{master}/pause")["state"] == "paused"  # type: ignore[index]
    with pytest.raises(Conflict, match="a-0 is paused"):
        copper.sh(master, "true")
    with pytest.raises(Conflict, match="a-0 is paused"):
        host(copper, "POST", f"/vms/{master}/freeze")
    before = uses(copper)[master]["cpu_s"]
    copper.stop(signal.SIGKILL)
    copper.start()
    assert copper.client.status(master).state == "paused"
    after = uses(copper)[master]["cpu_s"]
    assert 0 <= after - before < 0.2  # the counters of the same process go on, and it did nothing
    for _ in range(2):
        assert host(copper, "POST", f"/vms/{master}/unpause")["state"] == "running"  # type: ignore[index]
    was = count(copper, master)
    eventually(lambda: count(copper, master) > was)
    # it stood for seconds, and knows the time all the same
    asked = time.time()
    assert asked - 1.5 < float(copper.sh(master, "date +%s")) < time.time() + 0.5
    assert uses(copper)[master]["cpu_s"] > after


def test_use_is_measured_cheaply_and_agrees_with_the_kernels_own_sums(
    copper: Copper, micro: str
) -> None:
    master = copper.boot("a", micro)
    clones = copper.clone(master, 4)
    copper.sh(clones[0], "dd if=/dev/urandom of=/dev/shm/x bs=1M count=20 2>/dev/null")
    copper.sh(clones[0], "dd if=/dev/zero of=/root/y bs=1M count=8 2>/dev/null; sync")
    found = uses(copper)
    assert found.keys() == {master, *clones}
    assert found[clones[0]]["own_bytes"] > found[clones[1]]["own_bytes"] + 20 * MIB
    assert found[clones[0]]["disk_written_bytes"] >= 8 * MIB
    for vm in (master, *clones):
        status = copper.client.status(vm)
        rollup = Path(f"/proc/{status.pid}/smaps_rollup").read_text().splitlines()
        sums = {line.split()[0]: int(line.split()[1]) << 10 for line in rollup[1:]}
        anonymous, alone = sums["Anonymous:"] + sums["Swap:"], sums["Private_Dirty:"]
        if vm != master and copper.client.facts().accelerator == "tcg":
            # a copy has most in common with others; what it wrote is its own, whoever has it too by now
            assert 0.8 * alone - MIB < status.own_bytes < anonymous - 8 * MIB
        else:
            assert status.own_bytes == pytest.approx(anonymous, rel=0.05)
        assert found[vm]["cpu_s"] > 0
    took = []
    for _ in range(20):
        began = time.perf_counter()
        uses(copper)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.2  # of HTTP most
    host(copper, "DELETE", f"/vms/{clones[0]}")
    report = host(copper, "GET", "/report")
    ended = [use for use in report["ended"] if use["name"] == clones[0]]  # type: ignore[index]
    assert ended[0]["cpu_s"] >= found[clones[0]]["cpu_s"]


def test_limits_hold_live_and_over_a_new_agent_and_say_so(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    if not groups(copper):
        pytest.skip("cgroups cannot be written here")
    one, two = copper.clone(master, 2)
    assert {path.name for path in groups(copper)} >= {master, one, two}
    with pytest.raises(Refused, match="of its own already"):
        host(copper, "PUT", f"/vms/{one}/limits", {"own_bytes": 1 * MIB})
    host(copper, "PUT", f"/vms/{one}/limits", {"cpus": 0.2, "own_bytes": 48 * MIB})
    copper.stop(signal.SIGKILL)
    copper.start()
    # processor time
    before, began = uses(copper)[one]["cpu_s"], time.monotonic()
    copper.sh(one, "timeout 2 sh -c 'while :; do :; done' || true")
    share = (uses(copper)[one]["cpu_s"] - before) / (time.monotonic() - began)
    assert share < 0.4
    host(copper, "PUT", f"/vms/{one}/limits", {"own_bytes": 48 * MIB})
    # a fork of it is not counted as its own
    (three,) = copper.clone(one, 1)
    eats = "dd if=/dev/urandom of=/dev/shm/x bs=1M count=90 2>/dev/null; true"
    copper.sh(two, eats)
    with contextlib.suppress(CopperError):
        copper.sh(one, eats)
    eventually(lambda: copper.client.vm(one).state == "dead")
    reason = "it needed more memory of its own than its limit of 48 MiB"
    assert copper.client.vm(one).reason == reason
    assert {copper.client.vm(vm).state for vm in (master, two, three)} == {"running"}
    eventually(lambda: not [path for path in groups(copper) if path.name == one])


def suspend(copper: Copper, cluster: str, vms: list[str]) -> dict[str, int]:
    sizes = host(copper, "POST", f"/clusters/{cluster}/suspend", {"vms": vms})
    assert isinstance(sizes, dict)
    return sizes


def test_a_suspended_cluster_survives_the_end_of_everything(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    start_counting(copper, master)
    clones = copper.clone(master, 8)
    vms = [master, *clones]
    copper.sh(clones[0], "dd if=/dev/urandom of=/root/disk bs=1M count=4 2>/dev/null")
    copper.sh(clones[0], "md5sum /root/disk > /dev/shm/sum; sync")
    host(copper, "POST", f"/vms/{clones[7]}/pause")
    limits = {"cpus": 1.5, "own_bytes": 100 * MIB}
    host(copper, "PUT", f"/vms/{clones[1]}/limits", limits)
    counted = {vm: count(copper, vm) for vm in vms[:-1]}
    identities = {vm: copper.client.status(vm).identity for vm in vms}
    own = sum(copper.client.status(vm).own_bytes for vm in vms)
    assert sorted(copper.client.suspend("a")) == sorted(vms)
    sizes = suspend(copper, "a", vms)  # again, as the controller asks when it was not sure
    assert sizes.keys() == set(vms)
    folder = copper.settings.state_dir / "suspended" / "a"
    stored = sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
    assert sum(sizes.values()) <= stored < own < 9 * 256 * MIB
    assert host(copper, "GET", "/suspended") == {"a": sorted(vms)}
    assert host(copper, "GET", "/vms") == []
    with pytest.raises(Conflict, match="micro is in use by suspended a"):
        host(copper, "DELETE", "/images/micro")
    # as after a reboot: nothing of the process, no QEMU, no run directory
    copper.stop(signal.SIGKILL)
    for pid in copper.qemus():
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(copper.settings.run_dir)
    copper.settings.run_dir.mkdir()
    shutil.rmtree(copper.settings.vms_dir)
    copper.start()
    assert host(copper, "GET", "/suspended") == {"a": sorted(vms)}
    began = time.time()
    assert sorted(copper.client.resume("a")) == sorted(vms)
    back = host(copper, "POST", "/clusters/a/resume")
    assert isinstance(back, list)
    assert {vm["name"] for vm in back} == set(vms)
    assert {vm: copper.client.status(vm).identity for vm in vms} == identities
    assert not folder.exists()
    assert {copper.client.status(vm).state for vm in vms[:-1]} == {"running"}
    assert copper.client.status(clones[7]).state == "paused"
    host(copper, "POST", f"/vms/{clones[7]}/unpause")
    for vm in vms[:-1]:
        now = count(copper, vm)
        assert counted[vm] <= now < counted[vm] + 3 * (time.time() - began) + 50
        eventually(lambda vm=vm, now=now: count(copper, vm) > now)  # type: ignore[misc]
        assert copper.sh(vm, "gc vmid") == f"{identities[vm].vmid}\n"
    asked = time.time()
    clock = float(copper.sh(clones[2], "date +%s"))  # cut to a whole second
    assert asked - 1.5 < clock < time.time() + 0.5
    copper.sh(clones[0], "md5sum -c /dev/shm/sum")
    # what they shared they share again: the clones' common layer is one file in memory
    files = [
        {path.stat().st_ino for path in Path(f"/proc/{copper.client.status(vm).pid}/fd").iterdir()
         if "copper-layer" in str(path.readlink())}
        for vm in clones
    ]  # fmt: skip
    assert len(set.intersection(*files)) >= 2
    assert copper.sh(clones[0], "gc vmid; hostname") == "1\na-1\n"
    # and they fork as before
    frozen = host(copper, "POST", f"/vms/{clones[3]}/freeze")
    assert isinstance(frozen, dict)
    host(copper, "DELETE", f"/frozen/{frozen['image']}")


def test_a_suspend_that_fails_leaves_all_running(accel: str, micro: str) -> None:
    with a_copper(accel) as copper:
        master = copper.boot("a", micro)
        start_counting(copper, master)
        clones = copper.clone(master, 2)
        copper.stop()
        copper.environment["COPPER_KEEP_DISK_MIB"] = str(1 << 40)  # more than any disk has
        copper.start()
        with pytest.raises(NoRoom, match="disk is full"):
            suspend(copper, "a", [master, *clones])
        assert host(copper, "GET", "/suspended") == {}
        for vm in (master, *clones):
            now = count(copper, vm)
            eventually(lambda vm=vm, now=now: count(copper, vm) > now)  # type: ignore[misc]
        folder = copper.settings.state_dir / "suspended"
        assert not folder.exists() or list(folder.iterdir()) == []
        copper.stop()
        del copper.environment["COPPER_KEEP_DISK_MIB"]
        copper.start()
        suspend(copper, "a", [master, *clones])
        host(copper, "POST", "/clusters/a/resume")
        now = count(copper, clones[0])
        eventually(lambda: count(copper, clones[0]) > now)


def test_a_resume_that_fails_leaves_what_is_stored(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    copper.sh(master, "echo kept > /tmp/note")
    clones = copper.clone(master, 3)
    vms = [master, *clones]
    copper.client.suspend("a")
    folder = copper.settings.state_dir / "suspended" / "a"
    state = folder / "devices" / clones[2]
    right = state.read_bytes()
    state.write_bytes(right[:100] + b"?" + right[101:])
    with pytest.raises(CopperError, match="not what was written"):
        host(copper, "POST", "/clusters/a/resume")
    assert host(copper, "GET", "/vms") == []
    state.write_bytes(right)
    # an agent that died when some ran already: they are suspended all the same
    kept = copper.settings.state_dir / "kept"
    shutil.copytree(folder, kept)
    host(copper, "POST", "/clusters/a/resume")
    assert copper.sh(clones[2], "cat /tmp/note") == "kept\n"
    copper.stop(signal.SIGKILL)
    kept.rename(folder)
    copper.start()
    assert host(copper, "GET", "/suspended") == {"a": sorted(vms)}
    assert host(copper, "GET", "/vms") == []
    assert copper.qemus() == []
    assert groups(copper) == []
    host(copper, "POST", "/clusters/a/resume")
    assert copper.sh(clones[2], "cat /tmp/note; gc vmid") == "kept\n3\n"
    suspend(copper, "a", vms)
    for _ in range(2):
        host(copper, "DELETE", "/clusters/a/suspended")
    assert host(copper, "GET", "/suspended") == {}
    assert list(copper.settings.disks_dir.iterdir()) == []


def test_a_host_without_memory_pauses_and_then_ends_by_its_order(accel: str, micro: str) -> None:
    with a_copper(accel) as copper:
        master = copper.boot("a", micro)
        one, two = copper.clone(master, 2)
        copper.sh(two, "dd if=/dev/urandom of=/dev/shm/x bs=1M count=30 2>/dev/null")
        free_mib = read_fields(Path("/proc/meminfo"))["MemAvailable:"] >> 10

        def again(keep_mib: int) -> None:
            copper.stop()
            copper.environment["COPPER_KEEP_FREE_MIB"] = str(keep_mib)
            copper.start()

        again(free_mib * 3)  # two thirds of what is kept are gone
        eventually(lambda: {copper.client.status(vm).state for vm in (one, two)} == {"paused"})
        assert "its host is out of memory" in copper.client.status(two).reason
        log = copper.log.read_text()
        assert log.index(f"VM {two}: pause") < log.index(f"VM {one}: pause")
        again(64)
        eventually(lambda: {copper.client.status(vm).state for vm in (one, two)} == {"running"})
        assert copper.sh(two, "gc vmid") == "2\n"
        again(free_mib * 5)
        eventually(lambda: copper.client.vm(two).state == "dead")
        assert "its host is out of memory" in copper.client.vm(two).reason
        again(64)


def test_all_that_a_host_has_is_somebodys(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    clones = copper.clone(master, 2)

    def things() -> dict[str, dict[str, str]]:
        found = host(copper, "GET", "/inventory")
        assert isinstance(found, dict)
        by_thing: dict[str, dict[str, str]] = {}
        for one in found["found"]:
            by_thing.setdefault(one["thing"], {})[one["name"]] = one["vm"]
        return by_thing

    eventually(lambda: copper.client.facts().standbys == 2)
    found = things()
    assert sorted(found["process"].values()) == ["(standby)", "(standby)", master, *clones]
    assert set(found["record"].values()) == {master, *clones}
    assert set(found["overlay"].values()) <= {master, *clones}
    assert set(found["memory-file"].values()) <= {"(template)", master, *clones}
    assert set(found["cgroup"].values()) <= {master, *clones}
    assert "micro" in found.pop("image")
    assert not [name for names in found.values() for name, vm in names.items() if vm == ""]
    for thing, name in [("process", str(copper.client.status(master).pid)), ("process", "1")]:
        with pytest.raises(Refused):
            host(copper, "POST", "/mend", {"thing": thing, "name": name})
    # what an agent that was killed left behind is found, and nothing else removed
    stray = copper.settings.disks_dir / "0123456789abcdef.qcow2"
    stray.write_bytes(b"")
    assert things()["overlay"][str(stray)] == ""
    host(copper, "POST", "/mend", {"thing": "overlay", "name": str(stray)})
    now = things()
    del now["image"]
    assert now == found
    for vm in (master, *clones):
        copper.sh(vm, "echo kept > /root/note; sync")
    copper.client.suspend("a")
    found = things()
    assert found["suspended"] == {"a": "a"}
    assert set(found["overlay"].values()) == {master, *clones}
    assert "record" not in found
    assert "cgroup" not in found
    with pytest.raises(Refused, match=r"is a-\d's"):
        host(copper, "POST", "/mend", {"thing": "overlay", "name": next(iter(found["overlay"]))})
