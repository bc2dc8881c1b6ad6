"""The door to other programs, and the place where a build works: what they leave and what they say."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from copper.image.build import built
from copper.image.build.progress import Silent
from copper.image.build.run import run
from copper.image.build.workplace import Steps, locked, workplace
from copper.model.errors import BadInput, CopperError, Foreign, NoRoom, TimedOut


def test_output_comes_back() -> None:
    assert run(["printf", "%s", "a b"]) == "a b"


def test_a_failure_shows_its_last_line_and_a_command_to_paste() -> None:
    command = ["sh", "-c", "echo noise; echo 'first reason' >&2; echo 'last reason' >&2; exit 3"]
    with pytest.raises(CopperError) as caught:
        run(command)
    assert caught.value.message == "sh failed (status 3): last reason"
    pasted = subprocess.run(caught.value.advice, shell=True, capture_output=True, timeout=120)
    assert pasted.returncode == 3
    assert "first reason" in caught.value.__notes__[0]


def test_a_program_that_was_killed_says_by_what() -> None:
    with pytest.raises(CopperError, match="SIGKILL"):
        run(["sh", "-c", "kill -KILL $$"])


def test_apts_own_errors_are_preferred_to_what_follows_them() -> None:
    with pytest.raises(CopperError, match=r"\): Unable to fetch x \("):
        run(["sh", "-c", "echo 'E: Unable to fetch x' >&2; echo 'I: cleaning up' >&2; exit 1"])


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CopperError, match="no-such-program is not installed"):
        run(["no-such-program"])
    monkeypatch.setitem(run.__globals__["PACKAGES"], "no-such-program", "some-package")
    with pytest.raises(CopperError, match="apt-get install some-package"):
        run(["no-such-program"])


def test_a_full_disk_is_said_as_such() -> None:
    with pytest.raises(NoRoom, match="No space left on device"):
        run(["sh", "-c", "exec /bin/echo hi >/dev/full"])


def test_a_deadline_ends_the_program_and_its_children(tmp_path: Path) -> None:
    fifo = tmp_path / "alive"
    run(["mkfifo", fifo])
    opened = threading.Event()

    def read() -> None:
        with fifo.open("rb") as pipe:
            opened.set()
            pipe.read()

    # the child holds the pipe's writing end: reading meets its end when the child is gone
    ended = threading.Thread(target=read)
    ended.start()
    deadline_s = 0.25
    while not opened.is_set():  # on a slow machine there was no child yet
        deadline_s *= 2
        with pytest.raises(TimedOut, match=rf"did not end within {deadline_s:g} s"):
            run(["sh", "-c", 'sleep 1000 >"$1" & wait', "sh", fifo], timeout=deadline_s)
    ended.join(timeout=120)
    assert not ended.is_alive()


def test_a_workplace_is_gone_when_its_build_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), workplace(tmp_path, "micro") as folder:
        (folder / "root").mkdir()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".debian-12_abc.part/root").mkdir(parents=True)
    with workplace(tmp_path, "debian-12-dev") as other, workplace(tmp_path, "debian-12") as folder:
        assert {p.name for p in tmp_path.iterdir()} == {folder.name, other.name}


def test_two_builds_take_turns(tmp_path: Path) -> None:
    lock = tmp_path / "micro.lock"
    other = (
        "import pathlib, sys; from copper.image.build.workplace import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('mine', flush=True)"
    )
    with locked(lock):
        process = subprocess.Popen(
            [sys.executable, "-c", other, lock], stdout=subprocess.PIPE, text=True
        )
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
    assert process.communicate(timeout=120)[0] == "mine\n"


def test_an_error_says_in_which_step() -> None:
    steps = Steps("micro", Silent())
    with pytest.raises(CopperError) as caught, steps.step("writing the disk"):
        run(["sh", "-c", "echo 'it broke' >&2; exit 1"])
    assert caught.value.message == (
        "building micro, writing the disk: sh failed (status 1): it broke"
    )
    with pytest.raises(NoRoom, match="building micro, unpacking"), steps.step("unpacking"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(BadInput, match=r"^no such package$"), steps.step("resolving"):
        raise BadInput("no such package")


@pytest.fixture
def finished(tmp_path: Path) -> built.Built:
    files = {name: tmp_path / name for name in ("kernel", "initrd", "disk")}
    for path in files.values():
        path.write_bytes(b"content")
    result = built.Built("micro", "0" * 64, **files, disk_bytes=1 << 28, cmdline="quiet",
                         memory_mib=256, packages={"busybox-static": "1"})  # fmt: skip
    result.save()
    return result


def test_a_record_reads_back(finished: built.Built) -> None:
    assert built.load(finished.disk.parent) == finished


@pytest.mark.parametrize("content", [None, b"short"])
def test_a_build_that_lost_part_of_itself_does_not_count(
    finished: built.Built, content: bytes | None
) -> None:
    finished.kernel.unlink() if content is None else finished.kernel.write_bytes(content)
    assert built.load(finished.disk.parent) is None


def test_a_record_of_a_newer_format_is_refused(finished: built.Built) -> None:
    record = finished.disk.parent / built.RECORD
    record.write_text(record.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(Foreign, match="format 2"):
        built.load(finished.disk.parent)


def test_a_damaged_record_does_not_count(finished: built.Built) -> None:
    record = finished.disk.parent / built.RECORD
    record.write_text(record.read_text()[:99])
    assert built.load(finished.disk.parent) is None
