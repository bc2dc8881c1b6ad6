"""Commands in a guest, run by its real agent: bytes, exit statuses, signals, terminals, what they leave."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from copper.host.guest_port import GuestPort
from copper.model.errors import CopperError
from copper.wire import frames
from copper.wire.messages import Exit
from tests.unit.guests import DEADLINE, IDENTITY, Guest, RawHost, running_guest


@pytest.fixture
async def guest() -> AsyncIterator[Guest]:
    async with running_guest() as guest:
        yield guest


@pytest.fixture
async def port(guest: Guest) -> GuestPort:
    return await guest.session()


async def ran(port: GuestPort, script: str, data: bytes = b"") -> tuple[bytes, bytes, Exit]:
    async with asyncio.timeout(DEADLINE), await port.exec(["sh", "-c", script]) as command:
        return await command.communicate(data)


async def test_megabytes_of_any_bytes_go_both_ways(port: GuestPort) -> None:
    data = random.Random(1).randbytes(5_000_000)
    out, err, exit = await ran(port, "tee /dev/stderr", data)
    assert out == data
    assert err == data
    assert exit.status == 0


async def test_many_commands_at_once_keep_to_themselves(port: GuestPort) -> None:
    async def one(number: int) -> None:
        data = random.Random(number).randbytes(100_000)
        out, _, exit = await ran(port, f"cat; exit {number}", data)
        assert (out, exit.status) == (data, number)

    await asyncio.gather(*(one(number) for number in range(32)))


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 77", 77), ("kill -9 $$", 137), ("kill -15 $$", 143)],
)
async def test_the_exit_status_is_the_commands(port: GuestPort, script: str, status: int) -> None:
    assert (await ran(port, script))[2].status == status


@pytest.mark.parametrize(
    ("argv", "cwd", "errno", "status"),
    [
        (["no-such-program"], "/", 2, 127),
        (["/etc/passwd"], "/", 13, 126),
        (["true"], "/no/such/folder", 2, 127),
        ([], "/", 22, 126),
    ],
)
async def test_a_command_that_cannot_start_says_why(
    port: GuestPort, argv: list[str], cwd: str, errno: int, status: int
) -> None:
    async with await port.exec(argv, cwd=cwd) as command:
        exit = await command.wait()
    assert (exit.errno, exit.status) == (errno, status)
    assert exit.message


async def test_environment_and_folder_are_what_was_asked_for(port: GuestPort) -> None:
    async with await port.exec(
        ["sh", "-c", 'echo "$WORD $HOME $PATH"; pwd'], {"WORD": "grün", "HOME": "/tmp"}, "/usr"
    ) as command:
        out, _, _ = await command.communicate()
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert out.decode() == f"grün /tmp {path}\n/usr\n"


async def test_nothing_of_the_agents_is_inherited(port: GuestPort) -> None:
    out, _, _ = await ran(port, "ls /proc/self/fd; ulimit -n; ps -o sid= -p $$ >/dev/null")
    assert out.split()[:4] == [b"0", b"1", b"2", b"3"]  # 3 is the folder that ls reads
    assert int(out.split()[4]) <= 1024


async def test_signals_reach_the_whole_group(port: GuestPort) -> None:
    async with await port.exec(["sh", "-c", "sleep 1000 & echo up; wait"]) as command:
        assert await command.read() == (frames.STDOUT, b"up\n")
        command.signal(signal.SIGTERM)
        exit = await command.wait()  # the pipe is closed: the sleep is gone as well
    assert exit.signal == signal.SIGTERM


async def test_a_terminal_has_its_size_and_its_keys(port: GuestPort) -> None:
    script = "tty -s && echo $TERM; stty -echo; stty size; read x; stty size; cat; echo end"
    tty = {"rows": 33, "cols": 101, "term": "xterm"}
    async with await port.exec(["sh", "-c", script], tty=tty) as command:
        seen = b""
        while not seen.endswith(b"33 101\r\n"):
            piece = await command.read()
            assert piece is not None, seen
            seen += piece[1]
        command.resize(50, 132)
        await command.write(b"go\n")
        out, _, exit = await command.communicate(b"typed\n")  # its eof is a control-D
    assert seen == b"xterm\r\n33 101\r\n"
    assert out == b"50 132\r\ntyped\r\nend\r\n"
    assert exit.status == 0


async def test_control_c_interrupts_what_runs_in_a_terminal(port: GuestPort) -> None:
    tty = {"rows": 24, "cols": 80, "term": "xterm"}
    async with await port.exec(["cat"], tty=tty) as command:
        await command.write(b"up\n")
        seen = b""
        while seen != b"up\r\nup\r\n":  # the terminal's echo and cat's
            piece = await command.read()
            assert piece is not None, seen
            seen += piece[1]
        await command.write(b"\x03")
        assert (await command.wait()).signal == signal.SIGINT


async def test_a_command_that_reads_nothing_does_not_stop_its_writer(port: GuestPort) -> None:
    assert (await ran(port, "exec <&-; exit 5", b"x" * 1_000_000))[2].status == 5


async def test_a_reader_that_waits_stops_its_own_command_only(port: GuestPort) -> None:
    async with await port.exec(["sh", "-c", "head -c 3000000 /dev/zero; echo"]) as slow:
        assert (await ran(port, "head -c 2000000 /dev/zero"))[0] == bytes(2_000_000)
        assert sum([len(data) async for _, data in slow]) == 3_000_001


async def test_background_children_do_not_keep_a_command_from_ending(port: GuestPort) -> None:
    out, _, exit = await ran(port, "sleep 1000 & echo $!")
    assert exit.status == 0
    await ran(port, f"kill {int(out)}")


async def test_a_closed_stream_hangs_its_command_up(guest: Guest, port: GuestPort) -> None:
    fifo = guest.folder / "hung-up"
    os.mkfifo(fifo)
    script = f"trap 'echo hung up >{fifo}; exit' HUP; echo up; while :; do read x || sleep 1; done"
    command = await port.exec(["sh", "-c", script])
    assert await command.read() == (frames.STDOUT, b"up\n")
    command.close()
    async with asyncio.timeout(DEADLINE):
        assert await asyncio.to_thread(fifo.read_text) == "hung up\n"
    with pytest.raises(CopperError, match="closed"):
        await command.wait()


async def test_a_command_of_the_parent_goes_on_in_the_clone(guest: Guest, port: GuestPort) -> None:
    go, done = guest.folder / "go", guest.folder / "done"
    os.mkfifo(go)
    os.mkfifo(done)
    script = f"echo up; read x <{go}; head -c 3000000 /dev/zero; wc -c & echo done >{done}; wait"
    command = await port.exec(["sh", "-c", script])
    pid = command.pid
    assert await command.read() == (frames.STDOUT, b"up\n")
    await port.begin(IDENTITY, "clone", deadline=DEADLINE)
    with pytest.raises(CopperError, match="another session"):
        await command.read()
    async with asyncio.timeout(DEADLINE):
        await asyncio.to_thread(go.write_text, "go\n")
        assert await asyncio.to_thread(done.read_text) == "done\n"  # it did not block, nor die
    kept = (guest.folder / "log" / f"exec-{pid}.log").read_bytes()
    assert kept == bytes(1 << 20)
    await ran(port, f"kill -9 -{pid}")


async def test_the_next_host_is_told_how_a_command_ended(guest: Guest) -> None:
    host = RawHost(await guest.connection())
    await host.begin(11)
    await host.tell(11, type="exec", stream=5, argv=["cat"], env={}, cwd="/", tty=None)
    while getattr((told := await host.message())[1], "type", "") != "started":
        pass
    pid = told[1].pid  # type: ignore[union-attr]
    await host.begin(12, "adopt")
    os.kill(pid, signal.SIGKILL)
    session, exit = await host.message()
    assert session == 12
    assert isinstance(exit, Exit)
    assert (exit.stream, exit.signal) == (5, signal.SIGKILL)
    host.sock.close()


async def test_more_data_than_there_is_credit_for_ends_the_stream(guest: Guest) -> None:
    host = RawHost(await guest.connection())
    await host.begin(11)
    await host.tell(11, type="exec", stream=5, argv=["sleep", "1000"], env={}, cwd="/", tty=None)
    data = frames.encode(frames.Frame(frames.DATA, 11, b"x" * 32768, 5))
    await host.send(data * 8)
    while not isinstance((told := (await host.message())[1]), Exit):
        pass
    assert told.errno == 71  # EPROTO
    await host.tell(11, type="ping", id=1)
    assert (await host.message())[1].type == "pong"
    host.sock.close()


async def test_there_are_only_so_many_streams(port: GuestPort) -> None:
    commands = [await port.exec(["cat"]) for _ in range(64)]
    async with await port.exec(["cat"]) as one_too_many:
        assert (await one_too_many.wait()).errno == 11
    for command in commands:
        command.close()
    assert (await ran(port, "echo room"))[0] == b"room\n"


async def test_logs_are_not_written_without_a_fork(guest: Guest, port: GuestPort) -> None:
    await ran(port, "echo hello")
    assert list(Path(guest.folder / "log").iterdir()) == []
