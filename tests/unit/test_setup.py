"""The setup that both scripts share: what it refuses, what it installs, how it fails."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.rules import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with only the scripts, in a path with a space, so that nothing real is touched."""
    root = tmp_path / "a checkout"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    (root / "build").mkdir()
    (root / "build" / "setup.log").touch()
    return root


def sourced(checkout: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Runs bash code after setup.sh, as scripts/demo would; its functions stand for tools."""
    return subprocess.run(
        ["bash", "-c", f'. "$1/scripts/setup.sh"\n{code}', "scripts/demo", str(checkout)],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize(
    ("stand_in", "complaint"),
    [
        ("id() { echo 1000; }", "demo: must run as root"),
        ("dpkg() { echo arm64; }", "demo: needs an amd64 machine, and this is arm64"),
    ],
)
def test_a_machine_that_will_not_do_is_told_in_one_line(
    checkout: Path, stand_in: str, complaint: str
) -> None:
    able = "id() { echo 0; }; dpkg() { echo amd64; }"
    assert sourced(checkout, f"{able}; check_machine").returncode == 0
    done = sourced(checkout, f"{able}; {stand_in}; check_machine; echo went on")
    assert (done.returncode, done.stdout) == (1, "")
    what, advice = done.stderr.splitlines()
    assert what == complaint
    assert advice.startswith("  ")


def test_only_missing_packages_are_asked_for(checkout: Path) -> None:
    (checkout / "scripts" / "packages.txt").write_text(
        "# a comment\n[run]\nhere  why\ngone  why\nhalf  why\n\n[test]\nextra  why\n"
    )
    dpkg = checkout / "dpkg-query"
    dpkg.write_text("#!/bin/sh\necho installed here\necho half-configured half\nexit 1\n")
    dpkg.chmod(0o755)
    path = 'PATH="$1:$PATH"'
    assert sourced(checkout, f"{path}; missing_packages run").stdout.split() == ["gone", "half"]
    assert sourced(checkout, f"{path}; missing_packages run test").stdout.split() == [
        "extra",
        "gone",
        "half",
    ]


def test_nothing_missing_means_no_apt_at_all(checkout: Path) -> None:
    code = "missing_packages() { :; }; step() { echo step; }; install_packages run; echo done"
    done = sourced(checkout, code)
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_a_step_that_fails_shows_the_end_of_its_output_and_stops(checkout: Path) -> None:
    code = (
        'step "first step" seq 9000 9100; step "second step" sh -c "seq 100; exit 3"; echo went on'
    )
    done = sourced(checkout, code)
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["first", "second"]
    assert "\n100\n" in done.stderr
    assert "9100" not in done.stderr
    assert "went on" not in done.stdout
    assert "demo: failed with status 3: second step" in done.stderr
    assert str(checkout / "build" / "setup.log") in done.stderr


def test_a_command_that_fails_once_is_tried_again(checkout: Path) -> None:
    code = 'sleep() { :; }; flaky() { [ -e "$1" ] || { touch "$1"; return 1; }; }; '
    assert sourced(checkout, code + 'twice flaky "$1/mark"').returncode == 0
    assert sourced(checkout, code + "twice false").returncode != 0


def test_a_second_setup_waits_for_the_first(checkout: Path) -> None:
    code = (
        '. "$1/scripts/setup.sh"; check_machine() { :; }; install_packages() { :; }\n'
        "install_python() { echo installing; }; setup run"
    )
    with (checkout / "build" / "setup.lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = subprocess.Popen(
            ["bash", "-c", code, "scripts/demo", str(checkout)], stdout=subprocess.PIPE, text=True
        )
        with second:
            assert second.stdout is not None
            said = second.stdout.readline()
            fcntl.flock(first, fcntl.LOCK_UN)
            rest = second.stdout.read()
    assert (said, rest) == ("  waiting for another setup in this folder\n", "installing\n")
    assert second.returncode == 0
