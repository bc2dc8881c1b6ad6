"""The commands against a real Copper and real machines, as a user gives them."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.vm.machinery import COMMANDS, Copper

LONG = "x" * 300


def one_line(said: subprocess.CompletedProcess[bytes]) -> str:
    text = said.stderr.decode()
    assert len(text.splitlines()) == 1, text
    return text


def test_bad_input_is_one_line_and_changes_nothing(copper: Copper, micro: str) -> None:
    for argv, status in [
        (["gc-vc", "create", "a/b", "--image", micro], 2),
        (["gc-vc", "create", "a.b", "--image", micro], 2),
        (["gc-vc", "create", "a b", "--image", micro], 2),
        (["gc-vc", "create", LONG, "--image", micro], 2),
        (["gc-vc", "create", "", "--image", micro], 2),
        (["gc-vc", "create", "a", "--image", "../micro"], 2),
        (["gc-vc", "create", "a", "--image", "none"], 3),
        (["gc-vc", "create", "a", "--image", micro, "--memory", "0"], 2),
        (["gc-vc", "create", "a", "--image", micro, "--memory", "-4"], 2),
        (["gc-vc", "create", "a", "--image", micro, "--memory", "512"], 2),
        (["gc-vc", "create", "a", "--image", micro, "--cpus", "99999999999"], 2),
        (["gc-vc", "boot", "none"], 3),
        (["gc-vc", "kill", "none"], 3),
        (["gc-vc", "show", "none"], 3),
        (["gc-vc", "delete", "none"], 3),
        (["gc-vm", "show", "none-0"], 3),
        (["gc-vm", "show", "none"], 2),
        (["gc-vm", "exec", "none-0", "--", "true"], 3),
        (["gc-vm", "console", "none-0"], 3),
        (["gc-vm", "log", "none-0"], 3),
        (["gc-vm", "list", "none"], 3),
        (["copper", "image", "delete", "none"], 3),
        (["copper", "image", "delete", ".."], 2),
        (["copper", "image", "build", "x", "--recipe", "none"], 3),
        (["copper", "image", "build", "x/y", "--recipe", "micro"], 2),
        (["copper", "image", "build", "x", "--recipe", "micro", "--package", "a;b"], 2),
    ]:
        said = copper.run(*argv, check=False)
        assert said.returncode == status, (argv, said.stderr)
        assert said.stdout == b""
        one_line(said)
    assert copper.client.clusters() == []
    assert copper.qemus() == [] or copper.client.facts().standbys == len(copper.qemus())


def test_a_life_of_a_virtual_cluster(copper: Copper, micro: str) -> None:
    copper.run("gc-vc", "create", "a", "--image", micro)
    assert copper.run("gc-vc", "create", "a", "--image", micro, check=False).returncode == 5
    assert b"defined" in copper.run("gc-vc", "list").stdout
    copper.run("gc-vc", "boot", "a")
    assert copper.run("gc-vc", "boot", "a", check=False).returncode == 5
    assert copper.run("gc-vc", "delete", "a", check=False).returncode == 5
    assert copper.run("gc-vm", "list", "a", "--format", "name").stdout == b"a-0\n"
    (shown,) = json.loads(copper.run("gc-vm", "list", "--format", "json").stdout)
    assert (shown["name"], shown["ip"], shown["state"]) == ("a-0", "10.0.0.1", "running")
    copper.run("gc-vc", "kill", "a")
    assert copper.run("gc-vm", "list", "a", "--format", "name").stdout == b""
    copper.run("gc-vc", "boot", "a")  # from the image again
    assert copper.sh("a-0", "cat /tmp/note 2>/dev/null || echo none") == "none\n"
    copper.run("gc-vc", "kill", "a")
    copper.run("gc-vc", "delete", "a")
    assert copper.run("gc-vc", "list", "--format", "json").stdout == b"[]\n"


def test_exec_is_as_if_the_command_ran_here(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    run = ("gc-vm", "exec", master, "--")
    blob = os.urandom(3_000_000)
    assert copper.run(*run, "cat", stdin=blob).stdout == blob
    said = copper.run(*run, "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (said.returncode, said.stdout, said.stderr) == (7, b"out\n", b"err\n")
    assert copper.run(*run, "sh", "-c", "kill -9 $$", check=False).returncode == 137
    said = copper.run(*run, "no-such-command", check=False)
    assert said.returncode == 127
    assert "no-such-command" in one_line(said)
    assert copper.run(*run, "/etc/passwd", check=False).returncode == 126


def test_a_signal_goes_to_the_command(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    script = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    command = subprocess.Popen(
        [str(COMMANDS / "gc-vm"), "exec", master, "--", "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **copper.environment},
    )
    assert command.stdout is not None
    assert command.stdout.readline() == "ready\n"
    command.send_signal(signal.SIGTERM)
    rest, _ = command.communicate(timeout=300)
    assert (rest, command.returncode) == ("caught\n", 3)


@pytest.mark.parametrize("size", [0, 1, 65_536, 20_000_003])
def test_files_go_in_and_out_whole(copper: Copper, micro: str, tmp_path: Path, size: int) -> None:
    master = copper.boot("a", micro)
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(size))
    source.chmod(0o750)
    os.utime(source, ns=(10**18, 10**18))
    copper.run("gc-vm", "push", master, str(source), "/root/there")
    assert copper.sh(master, "stat -c '%a %Y %s' /root/there").split() == [
        "750",
        "1000000000",
        str(size),
    ]
    copper.run("gc-vm", "pull", master, "/root/there", str(back))
    assert back.read_bytes() == source.read_bytes()
    assert back.stat().st_mode & 0o777 == 0o750
    assert back.stat().st_mtime_ns == 10**18


def test_several_files_go_into_a_folder(copper: Copper, micro: str, tmp_path: Path) -> None:
    master = copper.boot("a", micro)
    files = [tmp_path / name for name in ("one", "two")]
    for file in files:
        file.write_text(file.name)
    copper.run("gc-vm", "push", master, *map(str, files), "/root")
    (tmp_path / "into").mkdir()
    copper.run("gc-vm", "pull", master, "/root/one", "/root/two", str(tmp_path / "into"))
    assert [(tmp_path / "into" / file.name).read_text() for file in files] == ["one", "two"]
    said = copper.run("gc-vm", "pull", master, "/root/none", str(tmp_path / "x"), check=False)
    assert said.returncode == 3
    one_line(said)
    assert not (tmp_path / "x").exists()
    said = copper.run("gc-vm", "push", master, str(files[0]), "/none/there", check=False)
    assert said.returncode == 3


def test_a_full_guest_disk_is_said_and_leaves_no_half_file(
    copper: Copper, micro: str, tmp_path: Path
) -> None:
    master = copper.boot("a", micro)
    free = int(copper.sh(master, "df -k / | awk 'END { print $4 }'"))
    copper.sh(master, f"fallocate -l {free - 20_000}K /var/most")
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(64 << 20)
    before = copper.sh(master, "ls -A /root")
    said = copper.run("gc-vm", "push", master, str(big), "/root/big", check=False)
    assert said.returncode == 4
    assert "space" in one_line(said)
    assert copper.sh(master, "ls -A /root") == before  # no half of it under any name


def read_until(fd: int, wanted: bytes, seconds: float = 300) -> bytes:
    seen = b""
    deadline = time.monotonic() + seconds
    while wanted not in seen:
        there, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        assert there, seen
        seen += os.read(fd, 65536)
    return seen


def test_the_console_is_a_terminal_and_ctrl_bracket_leaves(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    ours, theirs = pty.openpty()
    console = subprocess.Popen(
        [str(COMMANDS / "gc-vm"), "console", master],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, **copper.environment},
        start_new_session=True,
    )
    os.close(theirs)
    read_until(ours, b"leaves")
    os.write(ours, b"\r")
    read_until(ours, b"# ")
    os.write(ours, b"echo $((6 * 7))-$(tty)\r")
    read_until(ours, b"42-/dev/ttyS0")
    os.write(ours, b"\x1d")
    assert console.wait(300) == 0
    os.close(ours)
    assert b"42-/dev/ttyS0" in copper.run("gc-vm", "log", master).stdout
    # a clone has a line of its own
    (clone,) = copper.clone(master, 1)
    said = copper.run("gc-vm", "console", clone, stdin=b"\rgc vmid\r\x1d")
    assert said.returncode == 0


def test_a_host_is_shown_as_scripts_expect(copper: Copper, micro: str) -> None:
    copper.boot("a", micro)
    (name,) = copper.run("gc-host", "list", "--format", "name").stdout.decode().split()
    lines = copper.run("gc-host", "stat", name).stdout.decode().splitlines()
    labels = [line.strip().split(" ")[0] for line in lines[:3]]
    assert labels == ["CPU(s)", "RAM", "Local"]
    assert lines[0].strip().startswith(f"CPU(s) 1 of {os.cpu_count()} (")
    assert "Available Tags []" in lines[-1]


def test_doctor_says_what_is_here(copper: Copper) -> None:
    said = copper.run("copper", "doctor")
    assert b"lacking" not in said.stdout
    assert b"QEMU" in said.stdout


def test_a_second_daemon_is_refused(copper: Copper) -> None:
    said = subprocess.run(
        [str(COMMANDS / "python"), "-m", "copper.node"],
        capture_output=True,
        env={**os.environ, **copper.environment},
        timeout=300,
        check=False,
    )
    assert said.returncode == 5
    assert b"runs already" in said.stderr


def test_debian_forks_with_its_service(debian: str, accel: str) -> None:
    from tests.vm.machinery import a_copper

    with a_copper(accel) as copper:
        master = copper.boot("d", debian)
        copper.sh(master, "printf 'set k 0 0 5\\r\\nhello\\r\\nquit\\r\\n' | nc 127.0.0.1 11211")
        for clone in copper.clone(master, 4):
            got = copper.sh(clone, "printf 'get k\\r\\nquit\\r\\n' | nc 127.0.0.1 11211; hostname")
            assert got.split() == ["VALUE", "k", "0", "5", "hello", "END", clone]
