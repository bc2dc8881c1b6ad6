"""What a fork must not break: one test for each row of the hazards that hold so far."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import time
from pathlib import Path

import pytest

from copper.image.machine import layers_of
from tests.vm.machinery import COMMANDS, Copper

MANY = 16
SOAK = bool(os.environ.get("COPPER_SOAK"))  # scripts/soak: as often as the promise says


def hashes(copper: Copper, vm: str) -> list[str]:
    """Of every layer below a VM's memory and of every file below its disk."""
    pid = copper.client.status(vm).pid
    found = []
    for layer in layers_of(pid):
        digest = hashlib.sha256()
        at = 0
        while chunk := os.pread(layer.fd, 1 << 20, at):
            digest.update(chunk)
            at += len(chunk)
        found.append(f"{layer.id} {digest.hexdigest()}")
        layer.close()
    return found


def test_an_image_never_changes_after_its_freeze(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    copper.clone(master, 1)
    disk = copper.settings.images_dir / micro / "disk.qcow2"
    before = hashes(copper, "a-1"), hashlib.sha256(disk.read_bytes()).hexdigest()
    for _ in range(63 if SOAK else 3):
        clones = copper.clone(master, MANY)
        copper.everywhere(clones, "dd if=/dev/urandom of=/root/x bs=64k count=16 2>/dev/null; sync")
        for clone in clones:
            copper.client.end(clone)
    assert (hashes(copper, "a-1"), hashlib.sha256(disk.read_bytes()).hexdigest()) == before
    for layer in layers_of(copper.client.status("a-1").pid):
        for mode in (os.O_RDWR, os.O_RDONLY):
            fd = os.open(f"/proc/self/fd/{layer.fd}", mode)
            try:
                os.pwrite(fd, b"x", 8192)
                raise AssertionError("a sealed layer was written")
            except (PermissionError, OSError):
                os.close(fd)
        layer.close()


def test_random_numbers_differ(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    # read at the very moment that clone returns, by a process that is forked with its machine
    copper.sh(
        master,
        f"gc clone {MANY} > /dev/null; dd if=/dev/urandom bs=16 count=1 2>/dev/null | sha256sum > /tmp/random",
    )
    wait = "until [ -s /tmp/random ]; do sleep 0.1; done; cat /tmp/random"
    vms = copper.vms("a")
    assert len(vms) == MANY + 1
    values = copper.everywhere(vms, wait)
    assert len(set(values)) == MANY + 1


def test_the_wall_clock_is_the_hosts_and_the_monotonic_clock_runs_on(
    copper: Copper, micro: str
) -> None:
    master = copper.boot("a", micro)
    # what a clone of an image that is an hour old would believe
    copper.sh(master, "date -s @$(( $(date +%s) - 3600 )) > /dev/null")
    before = float(copper.sh(master, "cut -d' ' -f1 /proc/uptime"))
    began = time.monotonic()
    clones = copper.clone(master, MANY)
    for clone in clones:
        asked = time.time()
        guest = float(copper.sh(clone, "date +%s"))
        assert asked - 2 <= guest <= time.time() + 1, clone
        uptime = float(copper.sh(clone, "cut -d' ' -f1 /proc/uptime"))
        assert before <= uptime <= before + (time.monotonic() - began) + 2, clone


WRITER = """
cat > /root/writer << 'END'
n=0
while :; do
  n=$((n + 1))
  dd if=/dev/urandom bs=4k count=$((n % 7 + 1)) of=/root/new 2>/dev/null
  sha256sum < /root/new > /root/new.sum
  mv /root/new /root/data.$((n % 5)) && mv /root/new.sum /root/data.$((n % 5)).sum
  sync
done
END
sh /root/writer > /dev/null 2>&1 &
echo $! > /tmp/writer
until [ -e /root/data.4.sum ]; do sleep 0.1; done
"""
# a pair may be torn between its two renames, in memory as well as on the disk: at most one is
CHECK = """
kill $(cat /tmp/writer); sync; echo 3 > /proc/sys/vm/drop_caches; bad=0
for f in /root/data.?; do [ "$(sha256sum < $f)" = "$(cat $f.sum)" ] || bad=$((bad + 1)); done
echo $bad; dmesg | grep -ciE 'ext4.*error|i/o error|corrupt' || true
"""


@pytest.mark.timeout(1800)  # many forks, one after the other
def test_memory_and_disk_are_of_one_instant(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    copper.sh(master, WRITER)
    for _ in range(100 if SOAK else 15):
        (clone,) = copper.clone(master, 1)
        bad, errors = copper.sh(clone, CHECK).split()
        assert int(bad) <= 1, clone
        assert int(errors) == 0, clone
        copper.client.end(clone)
    assert copper.sh(master, CHECK).split()[1] == "0"  # its writer has run all the while


def test_a_file_system_is_clean_in_what_a_clone_stands_on(
    copper: Copper, micro: str, tmp_path: Path
) -> None:
    master = copper.boot("a", micro)
    copper.sh(master, WRITER)
    vms = [master, *(copper.clone(master, 1)[0] for _ in range(4))]
    copper.everywhere(vms, "kill $(cat /tmp/writer); sync")
    raw = tmp_path / "disk.raw"
    overlays = sorted(
        copper.settings.disks_dir.glob("*.qcow2"), key=lambda path: path.stat().st_size
    )
    for overlay in overlays:
        subprocess.run(
            ["qemu-img", "convert", "-U", "-O", "raw", str(overlay), str(raw)], check=True
        )
        # the journal is replayed as after a power cut; nothing else may need mending
        subprocess.run(
            ["e2fsck", "-p", "-E", "journal_only", str(raw)], capture_output=True, check=False
        )
        done = subprocess.run(
            ["e2fsck", "-fn", str(raw)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_a_fork_in_the_middle_of_messages_mixes_nothing_up(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    copper.sh(master, "dd if=/dev/urandom of=/root/blob bs=64k count=64 2>/dev/null; sync")
    wanted = copper.sh(master, "sha256sum < /root/blob").split()[0]
    flood = subprocess.Popen(
        [
            str(COMMANDS / "gc-vm"),
            "exec",
            master,
            "--",
            "sh",
            "-c",
            "for i in $(seq 20); do cat /root/blob; done",
        ],
        stdout=subprocess.PIPE,
        env={**os.environ, **copper.environment},
    )
    assert flood.stdout is not None
    digest = hashlib.sha256()
    seen = 0
    forks = 0
    while chunk := flood.stdout.read(1 << 22):
        seen += len(chunk)
        digest.update(chunk)
        if forks < 8:
            forks += 1
            (clone,) = copper.clone(master, 1)
            assert copper.sh(clone, "gc vmid; sha256sum < /root/blob").split()[:2] == [
                clone.rpartition("-")[2],
                wanted,
            ]
            copper.client.end(clone)
    assert flood.wait(300) == 0
    assert seen == 20 * 64 * 65536
    blob = copper.run("gc-vm", "exec", master, "--", "cat", "/root/blob").stdout
    assert digest.hexdigest() == hashlib.sha256(blob * 20).hexdigest()
    assert forks > 2


def test_a_command_goes_on_in_clones_and_only_the_callers_output_is_attached(
    copper: Copper, micro: str
) -> None:
    master = copper.boot("a", micro)
    loop = "i=0; while [ $i -lt 60 ]; do i=$((i + 1)); echo line $i; sleep 0.2; done; echo done > /root/done"
    attached = subprocess.Popen(
        [str(COMMANDS / "gc-vm"), "exec", master, "--", "sh", "-c", loop],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **copper.environment},
    )
    assert attached.stdout is not None
    first = attached.stdout.readline()
    clones = copper.clone(master, MANY)
    rest, _ = attached.communicate(timeout=600)
    assert (first + rest).splitlines() == [f"line {i}" for i in range(1, 61)]
    wait = "until [ -e /root/done ]; do sleep 0.2; done; grep -h '^line' /var/log/gridcentric/exec-*.log | tail -n 1"
    assert set(copper.everywhere(clones, wait)) == {"line 60\n"}


def test_any_moment_is_right_for_a_fork(copper: Copper, micro: str) -> None:
    chance = random.Random(7)
    master = copper.boot("a", micro)
    busy = (
        "for i in 1 2; do sh -c 'while :; do sha256sum /bin/busybox; done' > /dev/null 2>&1 & done"
    )
    for number in range(1000 if SOAK else 30):
        if number == 15:
            copper.sh(master, busy)
        copper.sh(master, f"usleep {chance.randrange(1, 200_000)}")
        (clone,) = copper.clone(master, 1)
        assert copper.sh(clone, "gc vmid").strip() == clone.rpartition("-")[2]
        copper.client.end(clone)
    log = copper.run("gc-vm", "log", master).stdout.decode()
    assert not re.search(r"soft lockup|Call Trace|Kernel panic|BUG:", log)
