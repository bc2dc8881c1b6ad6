"""What a host has of one Copper's, and that nothing else is ever removed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from copper.host.cgroups import Groups
from copper.host.inventory import Held, Place
from copper.image.suspended import SuspendedStore
from copper.model.errors import BadInput, Refused
from copper.model.settings import Settings
from copper.vmm.layers import new_layer

UNITS = [f"{number:012x}" for number in range(10)]
# stands in for a QEMU: its command line, a socket of its unit, a file of a disk
SCRIPT = """
import socket, sys
held = [open(path) for path in sys.argv[5:]]
if sys.argv[4]:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(sys.argv[4])
print(flush=True)
input()
"""


class Host:
    """A Copper's folders, and processes that look like its QEMUs."""

    def __init__(self, tmp: Path) -> None:
        self.settings = Settings(state_dir=tmp / "state", run_dir=tmp / "run")
        for folder in (self.settings.disks_dir, self.settings.vms_dir, self.settings.run_dir / "q"):
            folder.mkdir(parents=True)
        store = SuspendedStore(self.settings)
        groups = Groups(self.settings.run_dir, None)
        self.place = Place(self.settings, groups, store)
        self.children: list[subprocess.Popen[bytes]] = []

    def folder(self, unit: str) -> Path:
        return self.settings.run_dir / "q" / unit

    def start(self, unit: str, *disks: Path, bound: Path | None = None) -> str:
        """A process that looks like a QEMU; its number."""
        self.folder(unit).mkdir(exist_ok=True)
        sock = str(bound if bound is not None else self.folder(unit) / "qmp.sock")
        argv = [sys.executable, "-c", SCRIPT, "-name", f"copper-{unit}", "-S", sock]
        argv += [str(disk) for disk in disks]
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"
        self.children.append(child)
        return str(child.pid)

    def record(self, vm: str, unit: str) -> Path:
        path = self.settings.vms_dir / f"{vm}.json"
        path.write_text(json.dumps({"unit": unit}))
        return path

    def disk(self, name: str) -> Path:
        path = self.settings.disks_dir / f"{name}.qcow2"
        path.touch()
        return path

    def of(self, thing: str, held: Held | None = None) -> dict[str, str]:
        """Whose each thing of this kind is."""
        found = self.place.found(held or Held())
        return {one.name: one.vm for one in found if one.thing == thing}

    def mend(self, thing: str, name: object, held: Held | None = None) -> None:
        asyncio.run(self.place.mend(thing, str(name), held or Held()))

    def close(self) -> None:
        for child in self.children:
            child.kill()
            child.communicate()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.close()


def test_a_vm_has_its_process_its_folder_its_record_and_its_disks(host: Host) -> None:
    disk = host.disk("one")
    pid = host.start(UNITS[0], disk)
    record = host.record("a-0", UNITS[0])
    assert host.of("process") == {pid: "a-0"}
    assert host.of("socket") == {str(host.folder(UNITS[0])): "a-0"}
    assert host.of("overlay") == {str(disk): "a-0"}
    assert host.of("record") == {str(record): "a-0"}
    held = Held(units={UNITS[0]: "a-0"})
    for thing, name in [("process", pid), ("record", record), ("socket", host.folder(UNITS[0]))]:
        with pytest.raises(Refused):
            host.mend(thing, name, held)
    with pytest.raises(Refused, match="a-0's"):
        host.mend("overlay", disk, held)
    assert host.children[0].poll() is None
    assert host.of("process") == {pid: "a-0"}


def test_what_an_agent_waits_with_is_not_nobodys(host: Host) -> None:
    pid = host.start(UNITS[0])
    assert host.of("process") == {pid: ""}
    assert host.of("process", Held(units={UNITS[0]: "(standby)"})) == {pid: "(standby)"}


def test_what_nobody_uses_is_removed(host: Host) -> None:
    disk = host.disk("one")
    pid = host.start(UNITS[0], disk)
    log = host.settings.vms_dir / "a-7.log"
    log.touch()
    record = host.record("a-8", UNITS[8])
    assert host.of("record") == {str(log): "a-7", str(record): "a-8"}
    with pytest.raises(Refused, match="of a QEMU that runs"):
        host.mend("socket", host.folder(UNITS[0]))
    with pytest.raises(Refused, match=r"\(process\)'s"):
        host.mend("overlay", disk)
    host.mend("process", pid)
    assert host.children[0].wait(10) == -9
    for thing, name in [
        ("process", pid),
        ("socket", host.folder(UNITS[0])),
        ("overlay", disk),
        ("record", log),
        ("record", record),
    ]:
        for _ in range(2):  # again: nothing to do
            host.mend(thing, name)
    assert host.place.found(Held()) == []
    assert not disk.exists()
    assert not host.folder(UNITS[0]).exists()


def test_a_process_whose_folder_is_gone_is_known_by_its_sockets(host: Host) -> None:
    pid = host.start(UNITS[0])
    (host.folder(UNITS[0]) / "qmp.sock").unlink()
    host.folder(UNITS[0]).rmdir()
    assert host.of("process") == {pid: ""}
    host.mend("process", pid)
    assert host.children[0].wait(10) == -9


def test_processes_that_are_not_this_coppers_are_never_ended(host: Host, tmp_path: Path) -> None:
    # another Copper's, one that only looks like it, this very process, and a number that none has
    others = [host.start(UNITS[0], bound=tmp_path / "other.sock"), host.start(UNITS[1])]
    host.folder(UNITS[0]).rmdir()
    child = subprocess.Popen(["sleep", "60"])
    host.children.append(child)
    assert host.of("process") == {others[1]: ""}
    for pid in (others[0], str(child.pid), str(os.getpid()), "1"):
        with pytest.raises(Refused, match="is not Copper's"):
            host.mend("process", pid)
    host.mend("process", "999999999")
    assert [one.poll() for one in host.children] == [None, None, None]


@pytest.mark.parametrize("thing", ["overlay", "record", "socket"])
def test_paths_that_are_not_coppers_are_never_removed(
    host: Host, tmp_path: Path, thing: str
) -> None:
    precious = tmp_path / "precious.qcow2"
    precious.write_text("kept")
    folders = {
        "overlay": host.settings.disks_dir,
        "record": host.settings.vms_dir,
        "socket": host.settings.run_dir / "q",
    }
    below = folders[thing] / "deep" / "x.qcow2"
    below.parent.mkdir()
    below.write_text("kept")
    for path in (precious, below, folders[thing] / ".." / ".." / precious.name, Path("/"), Path()):
        with pytest.raises(BadInput, match="not Copper's"):
            host.mend(thing, path)
    assert precious.read_text() == below.read_text() == "kept"
    if thing == "socket":
        with pytest.raises(BadInput):
            host.mend(thing, below.parent)


def test_things_that_go_with_others_are_not_removed(host: Host) -> None:
    for thing in ("memory-file", "tap", "namespace", "vm", "image", "ticket"):
        with pytest.raises(Refused, match="goes with who holds it"):
            host.mend(thing, "x")
    host.mend("cgroup", "/sys/fs/cgroup/copper/none/a-0")
    with pytest.raises(Refused, match="is not Copper's"):
        host.mend("cgroup", "/sys")


def test_layers_are_found_by_who_holds_them(host: Host) -> None:
    fd = new_layer("7-inventory")
    try:
        assert host.of("memory-file")["7-inventory"] == ""
        held = Held(layers={"7-inventory": "(template)"})
        assert host.of("memory-file", held)["7-inventory"] == "(template)"
    finally:
        os.close(fd)
    assert "7-inventory" not in host.of("memory-file")


def test_half_of_a_suspended_cluster_is_removed_unless_it_is_being_stored(host: Host) -> None:
    half = host.place.suspended.folder / ".a.new"
    half.mkdir(parents=True)
    assert host.of("suspended") == {".a.new": "a"}
    with pytest.raises(Refused, match="being suspended"):
        host.mend("suspended", ".a.new", Held(storing=frozenset({"a"})))
    host.mend("suspended", ".a.new")
    assert not half.exists()


def test_records_that_cannot_be_read_do_no_harm(host: Host) -> None:
    for name, text in [("a-0", ""), ("a-1", "[]"), ("a-2", "{}"), ("a-3", "\0")]:
        (host.settings.vms_dir / f"{name}.json").write_text(text)
    assert set(host.of("record").values()) == {"a-0", "a-1", "a-2", "a-3"}
    assert host.of("process") == {}
    with contextlib.closing(socket.socket(socket.AF_UNIX)):
        assert host.of("socket") == {}
