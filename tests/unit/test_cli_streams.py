"""exec, console, push and pull as processes: what goes through, and how they end."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.fake_api import fake_copper

MAIN = "from copper.cli.gc_vm import main; main()"


@pytest.fixture(scope="module")
def copper() -> Iterator[tuple[dict[str, str], dict[str, bytes]]]:
    with fake_copper() as fake:
        yield fake


@pytest.fixture(scope="module")
def environment(copper: tuple[dict[str, str], dict[str, bytes]]) -> dict[str, str]:
    return {**os.environ, **copper[0], "TERM": "vt100"}


@pytest.fixture
def files(copper: tuple[dict[str, str], dict[str, bytes]]) -> dict[str, bytes]:
    """The files in the fake's VMs: none yet."""
    copper[1].clear()
    return copper[1]


def gc_vm(environment: dict[str, str], *argv: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    """Runs `gc-vm` to its end: exit status, standard output, standard error."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *argv],
        env=environment,
        input=stdin,
        capture_output=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("exit 0", (0, b"", b"")),
        ("exit 3", (3, b"", b"")),
        ("exit 255", (255, b"", b"")),
        ("signalled 9", (137, b"", b"")),
        ("nosuch x", (127, b"", b"gc-vm: nosuch: No such file or directory\n")),
        ("noexec", (126, b"", b"gc-vm: noexec: Permission denied\n")),
        ("say a b \xff c", (0, "a\xff".encode(), b"bc")),
        (
            "lose",
            (255, b"", b"gc-vm: lose: the connection to Copper was lost: going down\n"),
        ),
    ],
)
def test_how_a_command_ends(
    command: str, expected: tuple[int, bytes, bytes], environment: dict[str, str]
) -> None:
    assert gc_vm(environment, "exec", "demo-0", "--", *command.split(" ")) == expected


def test_the_dashes_may_be_left_out_and_options_stay_the_command_s(
    environment: dict[str, str],
) -> None:
    assert gc_vm(environment, "exec", "demo-0", "say", "-t", "--", "--help")[:2] == (0, b"-t--help")


def test_every_byte_goes_through_in_both_directions(environment: dict[str, str]) -> None:
    data = os.urandom(1 << 16) * 48
    assert gc_vm(environment, "exec", "demo-0", "--", "cat", stdin=data) == (0, data, b"")


def test_a_command_may_write_before_it_reads(environment: dict[str, str]) -> None:
    """Neither side waits for the other to take what it has written."""
    data = b"z" * (1 << 22)
    status, out, _ = gc_vm(environment, "exec", "demo-0", "--", "deaf", stdin=data)
    assert (status, len(out)) == (0, 1 << 23)


def test_input_may_be_a_file_or_closed(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"from a file")
    argv = [sys.executable, "-c", MAIN, "exec", "demo-0", "--", "cat"]
    with (tmp_path / "f").open() as file:
        assert subprocess.check_output(argv, env=environment, stdin=file) == b"from a file"
    script = ["sh", "-c", '"$@" <&-', "sh", *argv]
    assert subprocess.check_output(script, env=environment, timeout=60) == b""


def test_a_reader_that_goes_away_ends_it(environment: dict[str, str]) -> None:
    argv = [sys.executable, "-c", MAIN, "exec", "demo-0", "--", "yes"]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"y\n"
        process.stdout.close()
        assert process.wait(60) == -signal.SIGPIPE


@contextmanager
def waiting(environment: dict[str, str], *argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """A gc-vm that has shown the first line of what it waits for."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *argv],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"waiting\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_go_to_the_command(number: signal.Signals, environment: dict[str, str]) -> None:
    with waiting(environment, "exec", "demo-0", "--", "wait") as process:
        process.send_signal(number)
        assert process.wait(60) == 128 + number


def test_the_third_signal_ends_the_wait(environment: dict[str, str]) -> None:
    with waiting(environment, "exec", "demo-0", "--", "ignore") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == b"heard\n"
        process.send_signal(signal.SIGINT)
        process.wait(60)
        said = b"gc-vm: ignore: no longer waiting for it, and it may still run\n"
        assert (process.returncode, process.stderr.read()) == (128 + signal.SIGINT, said)


class Terminal:
    """A terminal with a gc-vm in it."""

    def __init__(self, environment: dict[str, str], *argv: str) -> None:
        self.master, slave = pty.openpty()
        self.resize(33, 99)
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *argv],
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.slave = slave
        self.shown = b""

    def resize(self, rows: int, cols: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def until(self, text: bytes) -> bytes:
        """What is shown up to here."""
        while text not in self.shown:
            self.shown += os.read(self.master, 1024)
        before, _, self.shown = self.shown.partition(text)
        return before

    def ended(self) -> int:
        """The exit status; the terminal is as it was."""
        status = self.process.wait(60)
        assert termios.tcgetattr(self.slave) == self.before
        os.close(self.master)
        os.close(self.slave)
        return status


def test_a_terminal_for_the_command(environment: dict[str, str]) -> None:
    terminal = Terminal(environment, "exec", "-t", "demo-0", "--", "opening")
    assert json.loads(terminal.until(b"}") + b"}") == {"rows": 33, "cols": 99, "term": "vt100"}
    terminal.type(b"\x03")  # Ctrl-C is a key like others
    terminal.until(b"\x03|")
    terminal.type(b"\x04")
    terminal.until(b"\x04|")
    terminal.resize(50, 120)
    terminal.until(json.dumps({"type": "resize", "rows": 50, "cols": 120}).encode())
    terminal.process.send_signal(signal.SIGTERM)
    terminal.until(json.dumps({"type": "signal", "signal": 15}).encode())
    terminal.type(b"q")
    assert terminal.ended() == 5


def test_a_terminal_is_given_to_a_command_without_one_here(environment: dict[str, str]) -> None:
    status, out, _ = gc_vm(environment, "exec", "-t", "demo-0", "--", "opening", stdin=b"q")
    tty = json.loads(out.partition(b"}")[0] + b"}")
    assert (status, sorted(tty)) == (5, ["cols", "rows", "term"])


def test_the_console_on_a_terminal(environment: dict[str, str]) -> None:
    terminal = Terminal(environment, "console", "demo-0")
    terminal.until(b"login: ")
    terminal.type(b"root\x03")
    terminal.until(b"ROOT\x03")
    terminal.type(b"\x1d")
    terminal.until(b"[left]")
    assert terminal.ended() == 0


def test_the_console_ends_with_its_vm(environment: dict[str, str]) -> None:
    terminal = Terminal(environment, "console", "demo-0")
    terminal.until(b"login: ")
    terminal.type(b"die")
    terminal.until(b"[demo-0 has ended]")
    assert terminal.ended() == 0


def test_a_signal_leaves_the_console_and_restores_the_terminal(
    environment: dict[str, str],
) -> None:
    terminal = Terminal(environment, "console", "demo-0")
    terminal.until(b"login: ")
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.ended() == 0


def test_the_console_in_a_pipe(environment: dict[str, str]) -> None:
    """The end of the input does not leave; the end of the VM does."""
    expected = (0, b"login: ROOT\nDIE\n", b"")
    assert gc_vm(environment, "console", "demo-0", stdin=b"root\ndie\n") == expected
    status, out, err = gc_vm(environment, "console", "demo-0", stdin=b"root\x1dnever")
    assert (status, err, b"NEVER" in out) == (0, b"", False)


def test_files_are_pushed_with_their_mode_and_time(
    environment: dict[str, str], files: dict[str, bytes], tmp_path: Path
) -> None:
    big, small = tmp_path / "big file", tmp_path / "small"
    big.write_bytes(os.urandom(1 << 16) * 40)
    small.write_bytes(b"")
    big.chmod(0o750)
    os.utime(big, ns=(1, 1_234_567_890_123_456_789))
    assert gc_vm(environment, "push", "demo-0", str(big), "/root/as") == (0, b"", b"")
    assert files["/root/as"] == big.read_bytes()
    assert json.loads(files["/root/as?"]) == {
        "path": "/root/as",
        "name": "big file",
        "mode": 0o750,
        "mtime_ns": 1_234_567_890_123_456_789,
    }
    assert gc_vm(environment, "push", "demo-0", str(big), str(small), "/srv") == (0, b"", b"")
    assert files["/srv/big file"] == big.read_bytes()
    assert files["/srv/small"] == b""


def test_what_cannot_be_pushed_is_said(
    environment: dict[str, str], files: dict[str, bytes], tmp_path: Path
) -> None:
    one = tmp_path / "one"
    one.write_bytes(b"1" * (1 << 22))
    assert gc_vm(environment, "push", "demo-0", str(one), "/full") == (
        4,
        b"",
        b"gc-vm: /full: No space left on device\n",
    )
    status, _, err = gc_vm(environment, "push", "demo-0", str(one), str(one) + "x", "/srv/")
    assert (status, err) == (3, f"gc-vm: no file {one}x\n".encode())
    status, _, err = gc_vm(environment, "push", "demo-0", str(one), str(tmp_path), "/srv/")
    assert status == 2
    assert err.startswith(f"gc-vm: {tmp_path} is a folder".encode())
    assert files == {}


def test_files_are_pulled_with_their_mode_and_time(
    environment: dict[str, str], files: dict[str, bytes], tmp_path: Path
) -> None:
    files["/etc/a"], files["/etc/b"] = os.urandom(300_001), b""
    assert gc_vm(environment, "pull", "demo-0", "/etc/a", str(tmp_path / "c")) == (0, b"", b"")
    status = (tmp_path / "c").stat()
    assert (tmp_path / "c").read_bytes() == files["/etc/a"]
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o750, 1_600_000_000_000_000_005)
    assert gc_vm(environment, "pull", "demo-0", "/etc/a", "/etc/b", str(tmp_path)) == (0, b"", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
    assert gc_vm(environment, "pull", "demo-0", "/etc/a", "/dev/stdout")[1] == files["/etc/a"]


def test_what_cannot_be_pulled_is_said_and_leaves_nothing(
    environment: dict[str, str], files: dict[str, bytes], tmp_path: Path
) -> None:
    files["/etc/a"] = b"a"
    (tmp_path / "old").write_text("old")
    target = str(tmp_path / "old")
    for argv, status, said in (
        (["/nosuch", target], 3, "gc-vm: /nosuch: No such file or directory\n"),
        (["/cut", target], 1, "gc-vm: the VM ended\n"),
        (
            ["/etc/a", "/nosuch", "/cut", str(tmp_path)],
            7,
            (
                "gc-vm: /nosuch: No such file or directory\n"
                "gc-vm: the VM ended\n"
                "gc-vm: 1 of 3 files were copied\n"
            ),
        ),
    ):
        assert gc_vm(environment, "pull", "demo-0", *argv) == (status, b"", said.encode())
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "a", "old": "old"}
