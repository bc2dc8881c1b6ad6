"""Limits by control groups, of both versions over folders that look like them, and over real ones where there are."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from copper.host.cgroup_layout import Layout, find_layout, groups_in
from copper.host.cgroups import KERNEL_BYTES, Groups, instance_of, read_fields
from copper.model.api import VmLimits
from copper.model.errors import Refused
from copper.model.machine import Shape

MIB = 1 << 20
SHAPE = Shape(memory_mib=256, cpus=2, disk_bytes=MIB)
KERNEL = KERNEL_BYTES + MIB
Layouts = Callable[[Path], Layout]


@pytest.fixture(autouse=True)
def folders_go_with_their_files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """A group's folder is removed though it has files, and only a kernel does that."""
    removed = Path.rmdir

    def rmdir(path: Path) -> None:
        files = ("cgroup.procs", "cpu.shares", "cpu.weight")
        lone = path.is_dir() and not any(entry.is_dir() for entry in path.iterdir())
        if path.is_relative_to(tmp_path) and lone and any((path / name).exists() for name in files):
            shutil.rmtree(path)
        else:
            removed(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rmdir", rmdir)
        yield


def first(tmp: Path, *, own: str = "agent") -> Layout:
    """Version 1, the agent in a group of its own for memory only."""
    mounts, groups = tmp / "mounts", tmp / "own"
    mounts.write_text(
        f"tmpfs {tmp} tmpfs rw 0 0\n"
        f"cgroup {tmp}/cpu cgroup rw,relatime,cpu,cpuacct 0 0\n"
        f"cgroup {tmp}/memory cgroup rw,relatime,memory 0 0\n"
        f"cgroup2 {tmp}/unified cgroup2 rw 0 0\n"
    )
    groups.write_text(f"4:memory:/{own}\n1:cpu,cpuacct:/\n0::/\n")
    (tmp / "memory" / own).mkdir(parents=True)
    (tmp / "cpu").mkdir()
    layout = find_layout(mounts, groups)
    assert layout is not None
    return layout


def second(tmp: Path) -> Layout:
    mounts, groups = tmp / "mounts", tmp / "own"
    mounts.write_text(f"cgroup2 {tmp}/cg cgroup2 rw,nsdelegate 0 0\n")
    groups.write_text("0::/user.slice/session.scope\n")
    (tmp / "cg").mkdir()
    (tmp / "cg" / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    layout = find_layout(mounts, groups)
    assert layout is not None
    return layout


def process(tmp: Path, pid: int, *, own_mib: int, groups: str = "") -> Path:
    """What /proc says of a process."""
    folder = tmp / "proc" / str(pid)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "status").write_text(
        f"Name:\tqemu\nRssAnon:\t{own_mib << 10} kB\nVmSwap:\t0 kB\nState:\tR (running)\n"
    )
    (folder / "cgroup").write_text(groups)
    return tmp / "proc"


def test_nothing_mounted_means_no_limits_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text("proc /proc proc rw 0 0\n")
    assert find_layout(tmp_path / "mounts", tmp_path / "none") is None
    groups = Groups(tmp_path, None)
    assert not groups.available
    groups.put("a-0", 1, SHAPE)
    groups.hold("a-0", VmLimits())
    with pytest.raises(Refused, match="no cgroups with cpu and memory are mounted"):
        groups.hold("a-0", VmLimits(cpus=1))


def test_a_mount_that_cannot_be_written_means_no_limits(tmp_path: Path) -> None:
    layout = first(tmp_path)
    shutil.rmtree(tmp_path / "cpu")
    (tmp_path / "cpu").write_text("")
    groups = Groups(tmp_path, layout)
    assert not groups.available
    assert "cgroups cannot be written" in groups.why


def test_version_1_lies_below_the_agents_own_group(tmp_path: Path) -> None:
    layout = first(tmp_path)
    groups = Groups(tmp_path, layout, process(tmp_path, 77, own_mib=30))
    groups.put("a-0", 77, SHAPE)
    mine = Path("copper") / instance_of(tmp_path) / "a-0"
    cpu, memory = tmp_path / "cpu" / mine, tmp_path / "memory" / "agent" / mine
    assert (cpu / "cgroup.procs").read_text() == (memory / "cgroup.procs").read_text() == "77"
    assert (cpu / "cpu.shares").read_text() == str(64 * 2048)  # it begins
    groups.weigh("a-0")
    assert (cpu / "cpu.shares").read_text() == "2048"
    assert groups.found() == [cpu, memory]
    asyncio.run(groups.remove("a-0"))
    assert groups.found() == []
    assert not cpu.parent.exists()  # nothing stays of an instance without VMs


def test_version_1_is_held_to_time_and_memory(tmp_path: Path) -> None:
    groups = Groups(tmp_path, first(tmp_path), process(tmp_path, 77, own_mib=30))
    groups.put("a-0", 77, SHAPE)
    cpu, memory = groups.found()
    (memory / "memory.memsw.limit_in_bytes").write_text("9223372036854771712\n")
    (memory / "memory.stat").write_text(f"cache 5\nrss {10 * MIB}\nshmem {7 * MIB}\n")
    groups.hold("a-0", VmLimits(cpus=1.5, own_bytes=64 * MIB))
    assert (cpu / "cpu.cfs_period_us").read_text() == "100000"
    assert (cpu / "cpu.cfs_quota_us").read_text() == "150000"
    # 30 MiB of its own, of which 20 were charged to the agent; 7 MiB of a layer are charged here
    most = str(64 * MIB - 20 * MIB + KERNEL + 7 * MIB)
    assert (memory / "memory.limit_in_bytes").read_text() == most
    assert (memory / "memory.memsw.limit_in_bytes").read_text() == most
    groups.hold("a-0", VmLimits())
    assert (cpu / "cpu.cfs_quota_us").read_text() == "-1"
    assert (memory / "memory.limit_in_bytes").read_text() == "-1"


def test_version_2_hands_controllers_down_and_has_one_group(tmp_path: Path) -> None:
    groups = Groups(tmp_path, second(tmp_path), process(tmp_path, 77, own_mib=30))
    groups.put("a-0", 77, SHAPE)
    top = tmp_path / "cg"
    mine = top / "copper" / instance_of(tmp_path)
    for folder in (top, top / "copper", mine):
        assert (folder / "cgroup.subtree_control").read_text() == "+cpu +memory"
    (group,) = groups.found()
    assert group == mine / "a-0"
    assert (group / "cpu.weight").read_text() == "10000"
    groups.weigh("a-0")
    assert (group / "cpu.weight").read_text() == "200"
    (group / "memory.stat").write_text(f"anon {30 * MIB}\nshmem 0\n")
    (group / "memory.swap.max").write_text("max")
    groups.hold("a-0", VmLimits(cpus=0.25, own_bytes=64 * MIB))
    assert (group / "cpu.max").read_text() == "25000 100000"
    assert (group / "memory.max").read_text() == str(64 * MIB + KERNEL)
    assert (group / "memory.swap.max").read_text() == "0"
    groups.hold("a-0", VmLimits())
    assert (group / "cpu.max").read_text() == "max 100000"
    assert (group / "memory.max").read_text() == "max"


def test_a_limit_below_what_a_vm_has_is_refused(tmp_path: Path) -> None:
    groups = Groups(tmp_path, second(tmp_path), process(tmp_path, 77, own_mib=80))
    groups.put("a-0", 77, SHAPE)
    (group,) = groups.found()
    with pytest.raises(Refused, match="a-0 has 80 MiB of its own already"):
        groups.hold("a-0", VmLimits(cpus=1, own_bytes=64 * MIB))
    assert not (group / "cpu.max").exists()
    # one that it had before, and has outgrown, leaves it what it has
    groups.hold("a-0", VmLimits(own_bytes=64 * MIB), again=True)
    assert (group / "memory.max").read_text() == str(KERNEL)


def test_memory_is_not_limited_while_a_vm_is_frozen(tmp_path: Path) -> None:
    groups = Groups(tmp_path, second(tmp_path), process(tmp_path, 77, own_mib=30))
    groups.put("a-0", 77, SHAPE)
    (group,) = groups.found()
    (group / "memory.stat").write_text(f"anon {30 * MIB}\nshmem 0\n")
    limits = VmLimits(own_bytes=64 * MIB)
    groups.hold("a-0", limits)
    with groups.lifted("a-0", limits):
        assert (group / "memory.max").read_text() == "max"
        process(tmp_path, 77, own_mib=5)
        (group / "memory.stat").write_text(f"anon {5 * MIB}\nshmem {25 * MIB}\n")
    assert (group / "memory.max").read_text() == str(64 * MIB + KERNEL + 25 * MIB)


@pytest.mark.parametrize(("version", "file"), [(1, "memory.oom_control"), (2, "memory.events")])
def test_a_vm_that_hit_its_own_limit_is_told_from_one_that_was_killed(
    tmp_path: Path, version: int, file: str
) -> None:
    groups = Groups(tmp_path, first(tmp_path) if version == 1 else second(tmp_path))
    groups.put("a-0", 77, SHAPE)
    group = groups.found()[-1]
    (group / file).write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    assert not groups.killed_for_memory("a-0")
    (group / file).write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert groups.killed_for_memory("a-0")


def test_a_group_that_another_agent_made_elsewhere_is_found_again(tmp_path: Path) -> None:
    layout = first(tmp_path)
    there = f"/before/copper/{instance_of(tmp_path)}/a-0"
    (tmp_path / "memory" / there[1:]).mkdir(parents=True)
    (tmp_path / "cpu" / there[1:]).mkdir(parents=True)
    proc = process(tmp_path, 77, own_mib=1, groups=f"4:memory:{there}\n1:cpu,cpuacct:{there}\n")
    groups = Groups(tmp_path, layout, proc)
    groups.find("a-0", 77, SHAPE)
    groups.hold("a-0", VmLimits(cpus=1))
    assert (tmp_path / "cpu" / there[1:] / "cpu.cfs_quota_us").read_text() == "100000"
    assert len(groups.found()) == 2
    # one without a group gets one
    process(tmp_path, 78, own_mib=1, groups="4:memory:/agent\n1:cpu,cpuacct:/\n")
    groups.find("a-1", 78, SHAPE)
    assert [path.name for path in groups.found()] == ["a-0", "a-1", "a-1", "a-0"]


# over the kernel's own


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Groups]:
    groups = Groups(tmp_path, find_layout())
    if not groups.available:
        pytest.skip(groups.why)
    yield groups
    for folder in groups.found():
        assert asyncio.run(groups.remove_folder(folder))
        assert not folder.exists()
    assert groups.found() == []


def eater(mib: int) -> subprocess.Popen[bytes]:
    """A process that writes so much memory when it is told to."""
    script = f"input(); x = bytearray({mib << 20}); print(len(x)); input()"
    return subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def tell(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    child.stdin.write(b"\n")
    child.stdin.flush()


def test_the_kernel_ends_who_exceeds_its_own_limit_and_nobody_else(real: Groups) -> None:
    children = [eater(100), eater(100)]
    try:
        for number, child in enumerate(children):
            real.put(f"a-{number}", child.pid, SHAPE)
        real.hold("a-0", VmLimits(cpus=0.5, own_bytes=40 * MIB))
        real.hold("a-1", VmLimits(own_bytes=400 * MIB))
        for child in children:
            tell(child)
        assert children[0].wait(30) == -9
        assert children[1].stdout is not None
        assert children[1].stdout.readline() == b"104857600\n"
        assert real.killed_for_memory("a-0")
        assert not real.killed_for_memory("a-1")
        with pytest.raises(Refused, match="of its own already"):
            real.hold("a-1", VmLimits(own_bytes=50 * MIB))
        real.hold("a-1", VmLimits())
        fields = read_fields(Path(f"/proc/{children[1].pid}/status"))
        assert fields["RssAnon:"] > 100 << 10
        asyncio.run(real.remove("a-0"))
        assert {path.name for path in real.found()} == {"a-1"}
    finally:
        for child in children:
            child.kill()
            child.communicate()


def test_a_real_group_is_found_by_the_next_agent(real: Groups, tmp_path: Path) -> None:
    child = eater(1)
    try:
        real.put("a-0", child.pid, SHAPE)
        after = Groups(tmp_path, find_layout())
        after.find("a-0", child.pid, SHAPE)
        after.hold("a-0", VmLimits(cpus=0.5))
        assert after.found() == real.found() != []
        assert all(str(child.pid) in (g / "cgroup.procs").read_text() for g in after.found())
    finally:
        child.kill()
        child.communicate()


def test_a_group_goes_though_a_seed_of_its_vm_is_in_it(real: Groups) -> None:
    child = eater(1)
    try:
        real.put("a-0", child.pid, SHAPE)
        asyncio.run(real.remove("a-0"))
        assert real.found() == []
        assert child.poll() is None
        assert groups_in(Path(f"/proc/{child.pid}/cgroup")) == groups_in(Path("/proc/self/cgroup"))
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("layout", [first, second])
def test_what_a_copy_has_of_its_own_is_what_its_group_was_charged_for(
    tmp_path: Path, layout: Layouts
) -> None:
    groups = Groups(tmp_path, layout(tmp_path), process(tmp_path, 77, own_mib=40))
    assert groups.charged("a-1") is None
    groups.put("a-1", 77, SHAPE, is_copy=True)
    memory = groups.found()[-1]
    (memory / "memory.stat").write_text(f"rss {5 * MIB}\nanon {5 * MIB}\nswap {MIB}\n")
    (memory / "memory.swap.current").write_text(f"{MIB}\n")
    assert groups.charged("a-1") == 6 * MIB
    assert groups.touched("a-1") is None
    (memory / ("memory.usage_in_bytes" if layout is first else "memory.current")).write_text(
        f"{7 * MIB}\n"
    )
    assert groups.touched("a-1") == 7 * MIB
    (memory / "memory.stat").write_text(f"rss {5 * MIB}\nanon {5 * MIB}\n")
    (memory / "memory.swap.current").write_text("0\n")
    # of the 40 MiB of its process 35 are its parent's as well: they count neither here nor elsewhere
    groups.hold("a-1", VmLimits(own_bytes=16 * MIB))
    limit = "memory.limit_in_bytes" if layout is first else "memory.max"
    assert (memory / limit).read_text() == str(16 * MIB + KERNEL)
    with pytest.raises(Refused, match="has 5 MiB of its own already"):
        groups.hold("a-1", VmLimits(own_bytes=4 * MIB))


def test_a_seed_goes_where_its_agent_is(tmp_path: Path) -> None:
    proc = process(tmp_path, 77, own_mib=40)
    (proc / "self").mkdir()
    (proc / "self" / "cgroup").write_text("4:memory:/agent\n1:cpu,cpuacct:/\n0::/\n")
    groups = Groups(tmp_path, first(tmp_path), proc)
    groups.put_back(78)
    assert (tmp_path / "memory" / "agent" / "cgroup.procs").read_text() == "78"
    assert (tmp_path / "cpu" / "cgroup.procs").read_text() == "78"
