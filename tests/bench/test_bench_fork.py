"""The bench itself, with the smallest guest and one round: that it measures all that it names, and leaves nothing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from copper.bench import criu, kinds, virsh
from copper.bench.fork import main
from copper.model.settings import Settings, from_environment
from tests.vm.machinery import images_folder

RUN = (
    "from pathlib import Path; from copper.bench.fork import main; main(quick=True, out=Path({!r}))"
)


@pytest.fixture
def settings(accel: str) -> Settings:
    """Shares the build cache of all tests, and the bench's templates from an earlier run."""
    return from_environment({"COPPER_STATE_DIR": str(images_folder()), "COPPER_ACCEL": accel})


def left_behind(settings: Settings, guest: str = "bench-micro-256") -> list[str]:
    """Folders of runs, and QEMU processes with the name of this guest of the bench."""
    left = []
    for path in (settings.cache_dir / "bench").glob("run-*"):
        with contextlib.suppress(OSError), (path / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else another test's bench is in it
            left.append(str(path))
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(guest.encode() in one for one in argv) and not is_anothers(int(entry.name)):
            left.append(f"process {entry.name}")
    return left


def is_anothers(pid: int) -> bool:
    """Whether a process is the child of another test's bench that runs now."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        parent = int(stat.rpartition(")")[2].split()[1])
        runs = Path(f"/proc/{parent}/cmdline").read_bytes()
    except OSError:
        return False
    return parent != os.getpid() and b"python" in runs


@pytest.mark.timeout(600)
def test_a_quick_run_measures_everything(
    settings: Settings,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Asked for all peers, on a machine without libvirt and CRIU."""
    monkeypatch.setattr(virsh, "PROGRAMS", ("no-virsh-here",))
    monkeypatch.setattr(criu, "PROGRAM", "no-criu-here")
    assert main(quick=True, runs=1, peers=["all"], out=tmp_path, settings=settings) == 0
    printed = capfd.readouterr().out
    assert "to reach" in printed
    written = json.loads((tmp_path / "bench.json").read_text())
    missing = {one["kind"]: one["reason"] for one in written["missing"]}
    assert set(missing) == {*kinds.ON_REQUEST["virsh"], *kinds.ON_REQUEST["criu"]}
    assert missing[kinds.VIRSH_SAVE].startswith("there is no no-virsh-here (install the packages ")
    assert missing[kinds.CRIU_DUMP] == "there is no criu (install the package criu)"
    assert f"{kinds.CRIU_RESTORE}: 1 times: there is no criu" in printed
    assert (written["rounds"], written["ended"]) == (1, "")
    counted = {(one["load"], one["kind"]): one["n"] for one in written["series"]}
    assert set(counted.values()) == {1}
    not_busy = {
        *(kinds.BOOT, kinds.OWN_WORKED, kinds.LAYER_IDLE, kinds.LAYER_DEEP),
        *(kind.name for kind in kinds.generations()),
    }
    wanted = {("-", peer) for peer in (*kinds.PEERS, *kinds.ON_REQUEST["loadvm-many"])}
    for kind in [*kinds.KINDS, *kinds.generations()]:
        if not kinds.is_peer(kind.name):
            wanted.add(("idle", kind.name))
            if kind.name not in not_busy:
                wanted.add(("busy", kind.name))
    assert set(counted) == wanted
    not_always = {kinds.step(name) for name in kinds.NOT_ALWAYS}
    for one in written["series"]:
        least = min(one["samples"])
        assert least > 0 or (least == 0 and one["kind"] in not_always), one
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert left_behind(settings) == []


@pytest.mark.timeout(600)
def test_an_interrupted_run_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "COPPER_STATE_DIR": str(settings.state_dir),
        "COPPER_ACCEL": settings.accel,
    }
    run = subprocess.Popen(
        [sys.executable, "-c", RUN.format(str(tmp_path))],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert run.stderr is not None
        said = ""
        while not said.startswith("round 1"):
            said = run.stderr.readline()
            assert said, "it ended before its first round"
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=300)
        assert run.returncode != 0
    finally:
        run.kill()
        run.wait()
    assert left_behind(settings) == []
