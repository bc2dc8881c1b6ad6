"""Clones that are copies of their parent's QEMU process: what is each one's own, and what is not there any more."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from copper.model.api import VmStatus
from copper.model.errors import CopperError
from copper.net.addresses import ipv4_of
from tests.vm.machinery import Copper, a_copper
from tests.vm.test_whole_clusters import eventually, host


@pytest.fixture
def copper(accel: str, micro: str) -> Iterator[Copper]:
    """A Copper whose emulated clones are copies. With KVM there are none to look at."""
    with a_copper(accel) as made:
        if made.client.facts().accelerator != "tcg":
            pytest.skip("with KVM no QEMU is copied")
        yield made


def unit(copper: Copper, vm: str) -> Path:
    record = json.loads((copper.settings.vms_dir / f"{vm}.json").read_text())
    return copper.settings.run_dir / "q" / str(record["unit"])


def is_copy(copper: Copper, vm: str) -> bool:
    return bool(json.loads((unit(copper, vm) / "process.json").read_text())["is_copy"])


def seeds(copper: Copper) -> list[int]:
    """QEMUs of this Copper that nobody can become: their folders hold nothing."""
    empty = {
        folder.name
        for folder in (copper.settings.run_dir / "q").iterdir()
        if not any(folder.iterdir())
    }
    found = []
    for pid in copper.qemus():
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if argv[argv.index(b"-name") + 1].decode().removeprefix("copper-") in empty:
            found.append(pid)
    return found


def files(pid: int) -> dict[str, list[str]]:
    """What a process has open, by kind."""
    found: dict[str, list[str]] = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        link = str(entry.readlink())
        found.setdefault(link.split(":")[0], []).append(link)
    return found


def test_a_clone_is_a_copy_with_files_of_its_own(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    clones = copper.clone(master, 3)
    assert not is_copy(copper, master)
    assert all(is_copy(copper, clone) for clone in clones)
    sockets: set[str] = set()
    for vm in (master, *clones):
        has = files(copper.client.status(vm).pid)
        assert len(has["socket"]) == 8
        assert not sockets & set(has["socket"])  # nobody hears what another is told
        sockets |= set(has["socket"])
        disks = [link for link in has if link.endswith(".qcow2")]
        own = copper.settings.disks_dir / f"{host_disk(copper, vm)}"
        assert str(own) in disks
    eventually(lambda: not seeds(copper))
    processes = {Path(f"/proc/{pid}/cmdline").read_bytes() for pid in copper.qemus()}
    assert len(processes) == len(copper.qemus())  # each is called by its own unit's name


def host_disk(copper: Copper, vm: str) -> str:
    record = json.loads((copper.settings.vms_dir / f"{vm}.json").read_text())
    return Path(record["disks"][-1]).name


def test_what_copies_write_is_their_own(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    copper.sh(master, "echo before > /root/disk; echo before > /run/memory")
    clones = copper.clone(master, 4)
    for vm in clones:
        copper.sh(vm, f"echo {vm} > /root/disk; sync; echo {vm} > /run/memory")
        copper.sh(vm, "echo 3 > /proc/sys/vm/drop_caches")
    for vm in clones:
        assert copper.sh(vm, "cat /root/disk /run/memory") == f"{vm}\n{vm}\n"
    assert copper.sh(master, "cat /root/disk /run/memory") == "before\nbefore\n"
    grandchild = copper.clone(clones[2], 1)[0]
    assert copper.sh(grandchild, "cat /root/disk /run/memory") == f"{clones[2]}\n{clones[2]}\n"


def test_copies_of_copies_outlive_the_agent_and_fork_again(copper: Copper, micro: str) -> None:
    vm = copper.boot("a", micro)
    chain = [vm]
    for depth in range(4):
        copper.sh(vm, f"echo {depth} > /root/{depth}")
        (vm,) = copper.clone(vm, 1)
        chain.append(vm)
    copper.stop(signal.SIGKILL)
    copper.start()
    assert {status.name for status in copper.client.statuses()} == set(chain)
    assert copper.sh(chain[-1], "cat /root/0 /root/1 /root/2 /root/3") == "0\n1\n2\n3\n"
    for vm in (chain[-1], chain[0]):
        (again,) = copper.clone(vm, 1)
        assert copper.sh(again, "gc vmid").strip() == again.removeprefix("a-")
    copper.run("copper", "audit")  # exit status 0: no difference


def test_no_seed_outlives_its_agent(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    frozen = host(copper, "POST", f"/vms/{master}/freeze")
    assert frozen
    (seed,) = seeds(copper)
    copper.stop(signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{seed}/cmdline").exists() or ended(seed))
    copper.start()
    assert seeds(copper) == []
    assert copper.sh(master, "gc vmid") == "0\n"


def ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"


def from_dead_seed(copper: Copper, master: str, vmid: int) -> object:
    """The host's answer to an order to thaw an image of this VM whose seed was killed meanwhile."""
    frozen = host(copper, "POST", f"/vms/{master}/freeze")
    assert isinstance(frozen, dict)
    for pid in seeds(copper):
        os.kill(pid, signal.SIGKILL)
    name = f"a-{vmid}"
    identity = {"cluster": "a", "vmid": vmid, "name": name, "ip": ipv4_of(vmid), "parent": 0}
    order = {"identity": {**identity, "generation": 1}, "frozen": frozen["image"]}
    try:
        return host(copper, "PUT", f"/vms/{name}", order)
    finally:
        host(copper, "DELETE", f"/frozen/{frozen['image']}")


def test_who_boots_writes_its_disk_so_that_its_copies_need_not(copper: Copper, micro: str) -> None:
    """A commit of the journal that somebody asked for: those of the kernel's own timer are not counted so."""
    master = copper.boot("a", micro)
    asked = "sed -n 's/.*(\\([0-9]*\\) requested.*/\\1/p' /proc/fs/jbd2/*/info"
    eventually(lambda: int(copper.sh(master, asked)) > 0)


def test_where_no_copy_is_made_a_state_is_loaded(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    made = from_dead_seed(copper, master, 1)
    assert VmStatus.model_validate(made).name == "a-1"
    assert not is_copy(copper, "a-1")
    host(copper, "DELETE", "/vms/a-1")


def test_where_copies_were_made_one_that_fails_is_said_and_the_next_loads(
    copper: Copper, micro: str
) -> None:
    master = copper.boot("a", micro)
    (clone,) = copper.clone(master, 1)
    assert is_copy(copper, clone)
    with pytest.raises(CopperError):
        from_dead_seed(copper, master, 8)
    assert [status.name for status in copper.client.statuses()] == [master, clone]
    from_dead_seed(copper, master, 9)
    assert not is_copy(copper, "a-9")
    host(copper, "DELETE", "/vms/a-9")
    assert is_copy(copper, copper.clone(master, 1)[0])


def test_one_that_is_told_to_copies_nothing(accel: str, micro: str) -> None:
    with a_copper(accel, COPPER_COPIES="0") as copper:
        master = copper.boot("a", micro)
        clones = copper.clone(master, 2)
        assert not any(is_copy(copper, clone) for clone in clones)
        assert copper.sh(clones[0], "gc vmid") == "1\n"


def test_memory_that_copies_share_is_not_their_own(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    clones = copper.clone(master, 4)
    for clone in clones:
        status = copper.client.status(clone)
        text = Path(f"/proc/{status.pid}/status").read_text()
        anonymous = int(text.split("RssAnon:")[1].split()[0]) << 10
        own = copper.client.status(clone).own_bytes
        assert 0 < own < anonymous / 2  # most of it is the parent's as well
    before = copper.client.status(clones[0]).own_bytes
    copper.sh(clones[0], "head -c 16777216 /dev/urandom > /run/big")
    assert copper.client.status(clones[0]).own_bytes - before > 15 << 20
