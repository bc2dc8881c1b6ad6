"""Hooks around a fork in the VM that clones, run by its agent: what is a hook, when it runs, what its failure does."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from copper.model.errors import NoRoom
from tests.unit.guests import DEADLINE, IDENTITY, MASTER, TICKET, Guest, Ran, ended, running_guest
from tests.unit.hooks import CLONED, FOLDERS, Host, guest, hook, note_all, noted, until

__all__ = ["guest"]


async def test_hooks_of_the_caller_run_around_the_fork(guest: Guest) -> None:
    note_all(guest)
    host = Host(guest)
    await guest.session(MASTER, host)
    assert await guest.gc("clone", "2") == Ran(0, "0\n", "")
    assert host.came == [("clone", ["0 pre-clone", "0 pre-clone.d/50-x"])]
    assert noted(guest)[2:] == [
        "0 post-clone",
        "0 post-clone.d/50-x",
        "0 post-clone-on-master.d/50-x",
    ]


async def test_without_hooks_nothing_is_between_a_program_and_its_host(guest: Guest) -> None:
    for folder in FOLDERS:
        (guest.folder / "etc" / folder).mkdir(parents=True)
    await guest.session(MASTER, Host(guest))
    assert await guest.gc("clone", "2") == Ran(0, "0\n", "")
    assert not (guest.folder / "log/hooks.log").exists()


async def test_files_are_hooks_by_the_rules_of_run_parts(guest: Guest) -> None:
    for name in ("20-b", "1_a", "Z", "a", "10-a", "100"):
        hook(guest, f"pre-clone.d/{name}", f"echo {name} >>$OUT/ran")
    for name in ("x.sh", "x~", ".x", "x.dpkg-old", "#x#", "x y", "é"):
        hook(guest, f"pre-clone.d/{name}", f"echo '{name}' >>$OUT/ran")
    hook(guest, "pre-clone.d/not-executable", "echo no >>$OUT/ran", 0o644)
    (guest.folder / "etc/pre-clone.d/folder").mkdir()
    os.mkfifo(guest.folder / "etc/pre-clone.d/pipe", 0o755)
    (guest.folder / "etc/pre-clone.d/dangling").symlink_to("nowhere")
    (guest.folder / "etc/pre-clone.d/30-linked").symlink_to("x.sh")
    hook(guest, "pre-clone", "echo none >>$OUT/ran", 0o644)
    await guest.session(MASTER, Host(guest))
    assert await guest.gc("clone", "2") == Ran(0, "0\n", "")
    assert noted(guest) == ["10-a", "100", "1_a", "20-b", "x.sh", "Z", "a"]


@pytest.mark.parametrize("argument", ["2", TICKET])
async def test_hooks_know_who_they_run_for(guest: Guest, argument: str) -> None:
    for name in ("pre-clone", "post-clone"):
        hook(guest, name, f"env | grep -E '^(GC_|PATH)' | sort >$OUT/{name}; pwd >>$OUT/{name}")
    await guest.session(IDENTITY, Host(guest, {**CLONED, "vmids": [7, 8, 10]}))
    assert (await guest.gc("clone", argument)).status == 0
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    ticket = "" if argument == "2" else TICKET
    who = ["GC_IP=10.0.0.4", "GC_PARENT=0", f"GC_TICKET={ticket}", "GC_VMID=3", path, "/"]
    assert (guest.folder / "pre-clone").read_text().splitlines() == who
    who[2:4] = [f"GC_TICKET={TICKET}", "GC_VMID=3", "GC_VMIDS=7 8 10"]
    assert (guest.folder / "post-clone").read_text().splitlines() == who


async def test_a_hook_is_no_child_of_the_program(guest: Guest) -> None:
    hook(guest, "pre-clone", "echo $PPID >$OUT/ran; cat")
    await guest.session(MASTER, Host(guest))
    assert (await guest.gc("clone", "2")).status == 0
    assert noted(guest) == [str(guest.process.pid)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("exit 3", "exit status 3"),
        ("echo no room >&2; exit 1", "exit status 1: no room"),
        ("echo out; echo two; exit 1", "exit status 1"),
        ("printf 'two\\nlines\\t\\n' >&2; exit 1", "exit status 1: two lines"),
        ("printf '\\303\\251\\n' >&2; exit 1", "exit status 1: é"),
        ("printf '\\377 \\303\\251' >&2; exit 1", "exit status 1: ? ??"),
        ("kill -9 $$", "killed by signal 9"),
        ("echo last words >&2; kill -TERM $$", "killed by signal 15: last words"),
    ],
)
async def test_a_hook_before_the_fork_that_fails_ends_it(
    guest: Guest, text: str, says: str
) -> None:
    hook(guest, "pre-clone.d/10-first", text)
    hook(guest, "pre-clone.d/20-second", "echo second >>$OUT/ran")
    host = Host(guest)
    await guest.session(MASTER, host)
    line = f"gc: clone: hook pre-clone.d/10-first: {says}\n"
    assert await guest.gc("clone", "2") == Ran(1, "", line)
    assert (host.came, noted(guest)) == ([], [])
    hook(guest, "pre-clone.d/10-first", "true")
    assert await guest.gc("clone", "2") == Ran(0, "0\n", "")


async def test_a_hook_that_cannot_be_run_ends_the_fork(guest: Guest) -> None:
    hook(guest, "pre-clone", "")
    (guest.folder / "etc/pre-clone").write_text("#!/no/such/shell\n")
    await guest.session(MASTER, Host(guest))
    line = "gc: clone: hook pre-clone: cannot be run: No such file or directory\n"
    assert await guest.gc("clone", "2") == Ran(1, "", line)


async def test_more_hooks_than_can_be_are_no_silent_loss(guest: Guest) -> None:
    for number in range(257):
        hook(guest, f"pre-clone.d/{number}", "")
    await guest.session(MASTER, Host(guest))
    line = "gc: clone: hook pre-clone.d: Argument list too long\n"
    assert await guest.gc("clone", "2") == Ran(1, "", line)


async def test_the_last_400_bytes_of_standard_error_are_told(guest: Guest) -> None:
    hook(guest, "pre-clone", "for i in $(seq 1 20000); do echo ä$i; done >&2; exit 1")
    await guest.session(MASTER, Host(guest))
    ran = await guest.gc("clone", "2")
    assert ran.err.endswith("ä19998 ä19999 ä20000\n")
    assert "?" not in ran.err
    assert (
        380 < len(ran.err.removeprefix("gc: clone: hook pre-clone: exit status 1: ").encode()) < 402
    )


async def test_a_slow_hook_is_ended_at_its_limit_and_all_that_it_started(guest: Guest) -> None:
    text = "sleep 1000 & echo $! >>$OUT/ran; echo $$ >>$OUT/ran; echo waiting >&2; wait"
    hook(guest, "pre-clone", text)
    (guest.folder / "etc/agent.conf").write_text("# seconds\nhook_timeout_s = 1\n")
    await guest.session(MASTER, Host(guest))
    began = time.monotonic()
    line = "gc: clone: hook pre-clone: not done within 1 s: waiting\n"
    assert await guest.gc("clone", "2") == Ran(1, "", line)
    assert 1 <= time.monotonic() - began < 10
    await until(lambda: not any(alive(int(pid)) for pid in noted(guest)))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    "limit", ["hook_timeout_s = 0", "hook_timeout_s = 1e9", "hook_timeout_s = 1m", "x = 1", ""]
)
async def test_a_limit_that_makes_no_sense_is_the_usual_one(guest: Guest, limit: str) -> None:
    hook(guest, "pre-clone", "sleep 1.1")
    (guest.folder / "etc/agent.conf").write_text(limit)
    await guest.session(MASTER, Host(guest))
    assert (await guest.gc("clone", "2")).status == 0


async def test_what_a_hook_leaves_running_is_ended_and_not_waited_for(guest: Guest) -> None:
    hook(guest, "pre-clone", "sleep 1000 & echo $! >>$OUT/ran")
    hook(guest, "post-clone", "setsid sleep 1000 & echo $! >>$OUT/ran; sleep 0.2")
    await guest.session(MASTER, Host(guest))
    began = time.monotonic()
    assert await guest.gc("clone", "2") == Ran(0, "0\n", "")
    assert time.monotonic() - began < 20
    left, daemon = map(int, noted(guest))
    await until(lambda: not alive(left))
    assert alive(daemon), "what has a session of its own goes on"
    os.kill(daemon, 9)


async def test_output_is_in_the_log_and_bounded(guest: Guest) -> None:
    hook(guest, "pre-clone", "echo to stdout; echo to stderr >&2")
    hook(guest, "post-clone", "yes | head -c 3000000; exit 4")
    await guest.session(MASTER, Host(guest))
    assert (await guest.gc("clone", "2")).status == 0
    text = (guest.folder / "log/hooks.log").read_text()
    assert "to stdout\n" in text
    assert "to stderr\n" in text
    assert "vmid 0: pre-clone: begins\n" in text
    assert "vmid 0: pre-clone: done, after " in text
    assert "vmid 0: post-clone: exit status 4, after " in text
    assert len(text) < 70_000
    (guest.folder / "log/hooks.log").write_text("x" * 1_100_000)
    assert (await guest.gc("clone", "2")).status == 0
    assert len((guest.folder / "log/hooks.log").read_text()) < 70_000
    assert (guest.folder / "log/hooks.log.1").exists()


async def test_failures_after_the_fork_are_named_and_change_nothing(guest: Guest) -> None:
    hook(guest, "post-clone", "echo oh >&2; exit 1")
    hook(guest, "post-clone.d/1", "exit 2")
    hook(guest, "post-clone-on-master.d/1", "echo $GC_VMID >>$OUT/ran; exit 3")
    await guest.session(MASTER, Host(guest))
    assert await guest.gc("clone", "2") == Ran(
        0,
        "0\n",
        "gc: clone: hook post-clone failed: exit status 1: oh\n"
        "gc: clone: hook post-clone.d/1 failed: exit status 2\n"
        "gc: clone: hook post-clone-on-master.d/1 failed: exit status 3\n",
    )
    assert noted(guest) == ["0"]


async def test_without_a_fork_nothing_runs_after_it(guest: Guest) -> None:
    note_all(guest)
    await guest.session(MASTER, Host(guest, NoRoom("no room")))
    assert await guest.gc("clone", "2") == Ran(16, "", "gc: clone: no room\n")
    assert noted(guest) == ["0 pre-clone", "0 pre-clone.d/50-x"]


async def test_the_agent_serves_others_while_hooks_run(guest: Guest) -> None:
    os.mkfifo(guest.folder / "gate")
    hook(guest, "pre-clone", "cat <$OUT/gate")
    port = await guest.session(MASTER, Host(guest))
    program = await guest.program("clone", "2")
    await port.ping(DEADLINE)
    assert await guest.gc("vmid") == Ran(0, "0\n", "")
    async with await port.exec(["true"]) as command:
        assert (await command.communicate())[2].status == 0
    (guest.folder / "gate").write_text("go")
    assert await ended(program) == Ran(0, "0\n", "")


async def test_forks_of_several_programs_do_not_mix_their_hooks(guest: Guest) -> None:
    hook(guest, "pre-clone", "echo before >>$OUT/ran; sleep 0.01")
    hook(guest, "post-clone-on-master.d/1", "echo after >>$OUT/ran; sleep 0.01")
    await guest.session(MASTER, Host(guest))
    programs = [await guest.program("clone", "2") for _ in range(8)]
    for program in programs:
        assert await ended(program) == Ran(0, "0\n", "")
    assert noted(guest) == ["before", "after"] * 8


async def test_a_program_that_goes_away_before_the_fork_has_none(guest: Guest) -> None:
    os.mkfifo(guest.folder / "gate")
    hook(guest, "pre-clone.d/1", "echo first >>$OUT/ran; cat <$OUT/gate; echo done >>$OUT/ran")
    hook(guest, "pre-clone.d/2", "echo second >>$OUT/ran")
    host = Host(guest)
    await guest.session(MASTER, host)
    program, waiting = await guest.program("clone", "2"), await guest.program("clone", "2")
    await until(lambda: noted(guest) == ["first"])
    assert await guest.gc("vmid") == Ran(0, "0\n", "")  # both have asked by now, in some order
    for one in (program, waiting):
        one.kill()
        await ended(one)
    (guest.folder / "gate").write_text("go")
    await until(lambda: noted(guest)[1:2] == ["done"])
    hook(guest, "pre-clone.d/1", "true")
    assert (await guest.gc("clone", "2")).status == 0
    assert noted(guest)[2:] == ["second"]
    assert len(host.came) == 1


async def test_the_hooks_after_a_fork_run_though_its_program_has_gone(guest: Guest) -> None:
    note_all(guest)
    host = Host(guest)
    host.go.clear()
    await guest.session(MASTER, host)
    program = await guest.program("clone", "2")
    await host.next()
    program.kill()
    await ended(program)
    second = await guest.program("clone", "2")
    assert await guest.gc("vmid") == Ran(0, "0\n", "")
    assert len(host.came) == 1  # it waits for the first one's hooks
    host.go.set()
    assert await ended(second) == Ran(0, "0\n", "")
    assert host.came[1][1][2:5] == noted(guest)[2:5]
    assert noted(guest)[4] == "0 post-clone-on-master.d/50-x"


async def test_a_new_host_agent_ends_the_fork_that_it_knows_nothing_of(guest: Guest) -> None:
    note_all(guest)
    host = Host(guest)
    host.go.clear()
    port = await guest.session(MASTER, host)
    programs = [await guest.program("clone", "2") for _ in range(2)]
    await host.next()
    await port.begin(MASTER, "adopt", deadline=DEADLINE)
    host.go.set()
    one, other = [await ended(program) for program in programs]
    assert sorted([one.status, other.status]) == [0, 5]


async def test_the_result_names_failures_for_every_language(guest: Guest) -> None:
    hook(guest, "post-clone", "exit 1")
    await guest.session(MASTER, Host(guest))
    reader, writer = await asyncio.open_unix_connection(guest.socket_path)
    writer.write(b'{"verb": "clone", "args": {"count": 2}}\n')
    async with asyncio.timeout(DEADLINE):
        answer = json.loads(await reader.readline())
    failed = [{"name": "post-clone", "message": "exit status 1"}]
    assert answer == {"errno": 0, "result": {**CLONED, "hooks": failed}}
    writer.close()


async def test_hooks_take_little_memory() -> None:
    async with running_guest(sanitized=False) as guest:
        for number in range(100):
            hook(guest, f"pre-clone.d/{number}", "yes x | head -c 200000 >&2")
        await guest.session(MASTER, Host(guest))
        programs = [await guest.program("clone", "2") for _ in range(4)]
        for program in programs:
            assert await ended(program) == Ran(0, "0\n", "")
        assert guest.memory_kib() < 8192
