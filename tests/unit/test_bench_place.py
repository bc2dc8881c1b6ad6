"""The bench's folders: what a run that was killed has left goes with the next one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from copper.bench.place import end_all, keep_folder, run_folders
from copper.model.settings import from_environment
from copper.vmm.alive import Alive


def test_a_runs_folders_go_however_it_ends(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        with run_folders(tmp_path) as (folder, sockets):
            (folder / "state").mkdir()
            (sockets / "q").mkdir()
            raise KeyboardInterrupt
    assert not folder.exists()
    assert not sockets.exists()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_cleared_and_a_running_one_is_not(tmp_path: Path) -> None:
    with run_folders(tmp_path) as (running, _):
        left = tmp_path / "run-left"
        left.mkdir()
        sockets = tmp_path / "sockets-left"
        sockets.mkdir()
        (left / "sockets").write_text(str(sockets))
        node = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        try:
            alive = Alive.of(node.pid)
            record = {
                "pid": alive.pid,
                "start_time": alive.start_time,
                "executable": alive.executable,
            }
            (left / "node.json").write_text(json.dumps(record))
            with run_folders(tmp_path):
                assert not left.exists()
                assert not sockets.exists()
                assert running.exists()
            assert node.wait(10) == -9
        finally:
            node.kill()
            node.wait()


def test_a_process_with_the_number_of_a_killed_runs_is_left_alone(tmp_path: Path) -> None:
    left = tmp_path / "run-left"
    left.mkdir()
    node = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        record = {"pid": node.pid, "start_time": 1, "executable": sys.executable}
        (left / "node.json").write_text(json.dumps(record))
        with run_folders(tmp_path):
            assert node.poll() is None
    finally:
        node.kill()
        node.wait()


def test_all_that_was_started_for_a_folder_ends_with_it(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "input()"]
    its = subprocess.Popen([*argv, f"root={tmp_path}/libvirt"], stdin=subprocess.PIPE)
    other = subprocess.Popen([*argv, "/somewhere/else"], stdin=subprocess.PIPE)
    try:
        end_all(tmp_path)
        assert its.wait(10) == -9
        assert other.poll() is None
    finally:
        for process in (its, other):
            process.kill()
            process.communicate()


def test_a_killed_run_that_had_not_said_where_its_sockets_are_takes_nothing_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, here = tmp_path / "run-left", tmp_path / "here"
    left.mkdir()
    here.mkdir()
    (left / "sockets").touch()
    monkeypatch.chdir(here)
    with run_folders(tmp_path):
        assert not left.exists()
    assert here.exists()


def test_templates_are_kept_beside_the_packages_that_builds_fetched(tmp_path: Path) -> None:
    settings = from_environment({"COPPER_STATE_DIR": str(tmp_path)})
    for _ in range(2):
        keep = keep_folder(settings)
    assert (keep / "cache").resolve() == settings.cache_dir.resolve()
