"""What ends in the middle, and what is left then: nothing, or all that was acknowledged."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from copper.image.store import ImageStore, Manifest
from copper.model.settings import from_environment
from tests.vm.machinery import COMMANDS, Copper, a_copper, images_folder


def test_a_killed_agent_finds_all_its_machines_again(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    clones = copper.clone(master, 8)
    copper.sh(clones[0], "echo kept > /tmp/note; echo kept > /root/note")
    pids = {vm: copper.client.status(vm).pid for vm in [master, *clones]}
    copper.stop(signal.SIGKILL)
    copper.start()
    assert {vm: copper.client.status(vm).pid for vm in copper.vms("a")} == pids
    assert copper.sh(clones[0], "cat /tmp/note /root/note; gc vmid") == "kept\nkept\n1\n"
    # and they fork as before: the adopted master, and an adopted clone
    assert copper.clone(master, 2) == ["a-9", "a-10"]
    (grandchild,) = copper.clone(clones[0], 1)
    assert copper.sh(grandchild, "cat /tmp/note /root/note; gc vmid") == "kept\nkept\n11\n"


def test_an_agent_that_ends_as_told_leaves_its_machines_running(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    copper.sh(master, "echo kept > /tmp/note")
    copper.stop()
    assert len(copper.qemus()) == 1  # the machine, and no standby
    copper.start()
    assert copper.sh(master, "cat /tmp/note") == "kept\n"


def test_an_agent_killed_while_it_forks_leaves_no_half_of_it(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    for _ in range(3):
        before = set(copper.vms("a"))
        call = subprocess.Popen(
            [str(COMMANDS / "gc-vm"), "exec", master, "--", "gc", "clone", "32"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **copper.environment},
        )
        listing: set[str] = set()
        while len(listing - before) == 0 and call.poll() is None:
            listing = set(copper.vms("a"))
        copper.stop(signal.SIGKILL)
        call.communicate(timeout=600)
        copper.start()
        there = {status.name for status in copper.client.statuses()}
        assert there == {vm.name for vm in copper.client.vms("a") if vm.state == "running"}
        assert len(copper.qemus()) == len(there)
        assert copper.sh(master, "gc vmid") == "0\n"
    assert len(copper.clone(master, 1)) == 1


def test_a_clone_whose_qemu_is_killed_is_reported_dead(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    one, two = copper.clone(master, 2)
    os.kill(copper.client.status(one).pid, signal.SIGKILL)
    states: dict[str, str] = {}
    while states.get(one) != "dead":
        states = {vm.name: vm.state for vm in copper.client.vms("a")}
    assert states == {master: "running", one: "dead", two: "running"}
    assert copper.client.vm(one).reason == "its QEMU was killed"
    listed = json.loads(copper.sh(master, "gc list --json"))
    assert [row["vmid"] for row in listed] == [0, 2]


def test_a_machine_that_powers_off_says_so(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    (clone,) = copper.clone(master, 1)
    copper.run("gc-vm", "exec", clone, "--", "poweroff", "-f", check=False)
    while copper.client.vm(clone).state != "dead":
        pass
    assert copper.client.vm(clone).reason == "the guest powered itself off"


def test_a_master_that_is_killed_while_it_forks_leaves_nothing(copper: Copper, micro: str) -> None:
    for _ in range(3):
        master = copper.boot("a", micro)
        pid = copper.client.status(master).pid
        call = subprocess.Popen(
            [str(COMMANDS / "gc-vm"), "exec", master, "--", "gc", "clone", "8"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **copper.environment},
        )
        while copper.client.facts().standbys < 3 and call.poll() is None:
            pass
        os.kill(pid, signal.SIGKILL)
        call.communicate(timeout=600)
        copper.client.kill("a")
        copper.run("gc-vc", "delete", "a")


def test_a_clone_whose_qemu_is_killed_while_it_thaws_undoes_the_fork(
    copper: Copper, micro: str
) -> None:
    master = copper.boot("a", micro)
    for _ in range(4):
        before = set(copper.qemus())
        call = subprocess.Popen(
            [str(COMMANDS / "gc-vm"), "exec", master, "--", "gc", "clone", "6"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **copper.environment},
        )
        fresh: set[int] = set()
        while len(fresh) < 3 and call.poll() is None:
            fresh = set(copper.qemus()) - before
        for pid in list(fresh)[:1]:
            os.kill(pid, signal.SIGKILL)
        out, error = call.communicate(timeout=600)
        there = {status.name for status in copper.client.statuses()}
        if call.returncode == 0:  # it was a standby that nobody needed, or another took its place
            assert out == b"0\n"
        else:
            assert (call.returncode, out) == (5, b"")
            assert len(error.decode().strip().splitlines()) == 1
            assert there == {master}
        assert there <= {vm.name for vm in copper.client.vms("a")}
        copper.exec(master, "gc", "killall")
        assert copper.vms("a") == [master]


def test_no_memory_for_a_fork(accel: str, micro: str) -> None:
    template = ImageStore(from_environment({"COPPER_STATE_DIR": str(images_folder())})).manifest(
        micro
    )
    room = (template.memory_bytes >> 20) + 34  # the image, and what one VM is expected to write
    with a_copper(accel, COPPER_LAYERS_MIB=str(room)) as copper:
        master = copper.boot("a", micro)
        there = [master]
        while True:
            said = copper.run("gc-vm", "exec", master, "--", "gc", "clone", "1", check=False)
            if said.returncode:
                break
            there.append(f"a-{len(there)}")
            assert len(there) < 9, "there is no end of it"
        assert (said.returncode, said.stdout) == (16, b"")
        assert b"memory" in said.stderr
        assert copper.vms("a") == there
        assert copper.sh(master, "gc vmid") == "0\n"


def test_no_disk_for_a_fork(accel: str, micro: str) -> None:
    free = shutil.disk_usage("/tmp").free >> 20
    with a_copper(accel, COPPER_KEEP_DISK_MIB=str(free * 2)) as copper:
        copper.run("gc-vc", "create", "a", "--image", micro)
        said = copper.run("gc-vc", "boot", "a", check=False)
        assert said.returncode == 4
        assert b"COPPER_KEEP_DISK_MIB" in said.stderr
        assert copper.vms("a") == []
        assert list(copper.settings.disks_dir.iterdir()) == []


def test_a_disk_that_fills_up_while_machines_run(accel: str, micro: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(state)], check=True)
    try:
        shutil.copytree(images_folder() / "images" / micro, state / "images" / micro)
        with a_copper(accel, state=state, COPPER_KEEP_DISK_MIB="0") as copper:
            master = copper.boot("a", micro)
            copper.clone(master, 1)
            filler = state / "filler"
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(b"x" * 4096):
                    pass
            done = copper.client.run(master, ["gc", "clone", "2"])
            assert done.status in (5, 16)
            assert len(done.stderr.decode().strip().splitlines()) == 1
            filler.unlink()
            assert copper.vms("a") == [master, "a-1"]
            assert copper.sh(master, "gc vmid") == "0\n"
            assert len(copper.clone(master, 2)) == 2
    finally:
        subprocess.run(["umount", str(state)], check=True)


def _flip(path: Path, at: int) -> None:
    path.chmod(0o644)
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.unlink()  # the file is shared with other tests
    path.write_bytes(raw)


def _cut(path: Path) -> None:
    raw = path.read_bytes()
    path.unlink()
    path.write_bytes(raw[: len(raw) // 2])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a flipped bit in the memory": lambda image: _flip(image / "memory", 9000),
    "a memory cut short": lambda image: _cut(image / "memory"),
    "a flipped bit in the devices": lambda image: _flip(image / "devices", 5000),
    "devices cut short": lambda image: _cut(image / "devices"),
    "a flipped bit in the disk": lambda image: _flip(image / "disk.qcow2", 3_000_000),
    "a disk cut short": lambda image: _cut(image / "disk.qcow2"),
    "no disk": lambda image: (image / "disk.qcow2").unlink(),
    "a flipped bit in the manifest": lambda image: _flip(image / "manifest.json", 40),
    "an empty manifest": lambda image: _rewrite(image, ""),
    "a manifest that is a list": lambda image: _rewrite(image, "[]"),
}


def _rewrite(image: Path, text: str) -> None:
    path = image / "manifest.json"
    path.unlink()
    path.write_text(text)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_image_is_refused_before_a_machine_starts(
    accel: str, micro: str, damage: Callable[[Path], None]
) -> None:
    with a_copper(accel, COPPER_STANDBYS="0") as copper:
        copper.run("gc-vc", "create", "a", "--image", micro)
        copper.stop()
        damage(copper.settings.images_dir / micro)
        shutil.rmtree(copper.settings.run_dir / "checked", ignore_errors=True)
        copper.start()
        said = copper.run("gc-vc", "boot", "a", check=False)
        assert said.returncode in (3, 4)
        lines = said.stderr.decode().strip().splitlines()
        assert len(lines) == 1 and micro in lines[0]
        assert copper.vms("a") == []
        assert copper.qemus() == []


NEEDS = {"qemu": "9.9.9", "machine": "pc-q35-1.0", "processor": "486", "accelerator": None}


@pytest.mark.parametrize("field", NEEDS)
def test_an_image_of_another_machine_is_refused_with_both_values(
    accel: str, micro: str, field: str
) -> None:
    with a_copper(accel, COPPER_STANDBYS="0") as copper:
        copper.run("gc-vc", "create", "a", "--image", micro)
        copper.stop()
        folder = copper.settings.images_dir / micro
        manifest = Manifest.model_validate_json((folder / "manifest.json").read_text())
        here = getattr(manifest.needs, field)
        other = NEEDS[field] or ("tcg" if here == "kvm" else "kvm")
        needs = manifest.needs.model_copy(update={field: other})
        changed = manifest.model_copy(update={"needs": needs}).sealed()
        _rewrite(folder, changed.model_dump_json())
        copper.start()
        said = copper.run("gc-vc", "boot", "a", check=False)
        assert said.returncode == 4
        assert repr(other) in said.stderr.decode()
        assert repr(here) in said.stderr.decode()


def test_an_image_of_a_newer_format_is_refused(accel: str, micro: str) -> None:
    with a_copper(accel, COPPER_STANDBYS="0") as copper:
        copper.run("gc-vc", "create", "a", "--image", micro)
        copper.stop()
        folder = copper.settings.images_dir / micro
        manifest = Manifest.model_validate_json((folder / "manifest.json").read_text())
        newer = manifest.model_copy(update={"format": manifest.format + 1}).sealed()
        _rewrite(folder, newer.model_dump_json())
        copper.start()
        said = copper.run("gc-vc", "boot", "a", check=False)
        assert said.returncode == 4
        assert f"format {newer.format}".encode() in said.stderr


def test_an_image_in_use_is_not_deleted(copper: Copper, micro: str) -> None:
    copper.boot("a", micro)
    said = copper.run("copper", "image", "delete", micro, check=False)
    assert said.returncode == 5
    copper.run("gc-vc", "kill", "a")
    copper.run("gc-vc", "delete", "a")
    copper.run("copper", "image", "delete", micro)
    listed = copper.run("copper", "image", "list", "--format", "name").stdout.decode()
    assert micro not in listed.split()
