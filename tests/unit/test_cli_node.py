"""copper up, down and doctor: a Copper without VMs begins and ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from copper.cli.node import checks
from copper.cli.node.checks import Finding, examine
from copper.model.errors import NotFound
from copper.model.settings import Settings
from copper.vmm.alive import Alive

Copper = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where a Copper of this test keeps all that it has. A socket's path may not be long."""
    with tempfile.TemporaryDirectory(prefix="cu-") as folder:
        yield Path(folder)


@pytest.fixture
def copper(folder: Path) -> Iterator[Copper]:
    """Runs `copper`; at the end nothing of it runs."""
    environment = {
        **os.environ,
        "COPPER_RUN_DIR": str(folder / "run"),
        "COPPER_STATE_DIR": str(folder / "state"),
    }

    def run(*argv: str, **variables: str) -> tuple[int, str, str]:
        code = "from copper.cli.copper import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *argv],
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout, done.stderr

    try:
        yield run
    finally:
        assert run("down")[0] == 0


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed")
def test_up_and_down(copper: Copper, folder: Path) -> None:
    status, out, err = copper("up")
    assert (status, err) == (0, "")
    assert out.startswith("Copper runs: version 0.1.0, process ")
    pid = int(out.split("process ")[1].split(",")[0])
    assert copper("up")[1].startswith(f"Copper runs already: version 0.1.0, process {pid},")
    # another one in the same place is refused, whatever it is started with
    status, _, err = copper("up", "--foreground")
    assert (status, err.count("\n")) == (5, 1)
    assert copper("image", "list", "--format", "json") == (0, "[]\n", "")
    assert copper("down") == (0, "ended Copper\n", "")
    with pytest.raises(NotFound):
        Alive.of(pid)
    assert not (folder / "run" / "api.sock").exists()
    assert copper("down") == (0, "Copper does not run here\n", "")


def test_why_it_did_not_start(copper: Copper, folder: Path) -> None:
    status, out, err = copper("up", COPPER_QEMU="no-such-qemu")
    assert (status, out) == (1, "")
    assert err == (
        "copper: Copper did not start: there is no no-such-qemu (install the package"
        " qemu-system-x86) (copper doctor says what this machine lacks)\n"
    )
    (folder / "file").touch()
    status, out, err = copper("up", COPPER_STATE_DIR=str(folder / "file"))
    assert (status, out, err.count("\n")) == (1, "", 1)


def findings(settings: Settings) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(settings)}


def test_the_doctor_says_what_is_lacking_and_how_to_mend_it(folder: Path) -> None:
    (folder / "file").touch()
    settings = Settings(
        state_dir=folder / "file" / "state",
        run_dir=folder / "run",
        native_dir=folder,
        qemu="no-such-qemu",
        keep_free_mib=1 << 30,
        keep_disk_mib=1 << 40,
    )
    found = findings(settings)
    lacking = {what for what, finding in found.items() if finding.verdict == "lacking"}
    assert lacking >= {"QEMU", "QEMU's hook", "guest agent", "memory", "state folder", "disk"}
    assert "install the package qemu-system-x86" in found["QEMU"].advice
    assert all(found[what].advice for what in lacking)
    assert found["run folder"].verdict == "ok"
    assert found["Copper"] == Finding("note", "Copper", "does not run", "copper up")
    assert not (folder / "run").exists(), "the doctor changes nothing"


@pytest.mark.parametrize(
    ("gives", "scans", "verdict", "advice"),
    [(True, True, "ok", ""), (True, False, "note", "Linux 6.7"), (False, True, "note", "madvise")],
)
def test_the_doctor_says_whether_vms_get_huge_pages(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    gives: bool,
    scans: bool,
    verdict: str,
    advice: str,
) -> None:
    monkeypatch.setattr(checks, "gives_huge_pages", lambda: gives)
    monkeypatch.setattr(checks, "_has_pagemap_scan", lambda: scans)
    found = findings(Settings(state_dir=folder, run_dir=folder))["huge pages"]
    assert found.verdict == verdict
    assert advice in found.advice


def test_the_doctor_s_exit_status_follows_what_is_lacking(copper: Copper) -> None:
    status, out, err = copper("doctor", COPPER_QEMU="no-such-qemu")
    assert (status, err) == (1, "")
    assert "lacking  QEMU             there is no no-such-qemu" in out
    status, out, _ = copper("doctor")
    assert status == (1 if "\nlacking " in f"\n{out}" else 0)
