"""The command gc: what scripts cut out of its output, and its exit statuses."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import pytest

from copper.model.errors import BadInput, CopperError, NoRoom, NotFound, TimedOut
from tests.unit.guests import (
    DEADLINE,
    IDENTITY,
    MASTER,
    TICKET,
    Guest,
    Ran,
    ended,
    other_user,
    running_guest,
)

VMS = [
    {"vmid": 0, "address": "10.0.0.1", "generation": 0, "parent": None, "state": "running"},
    {"vmid": 12, "address": "10.0.0.13", "generation": 1, "parent": 0, "state": "starting"},
]
for _vm in VMS:
    _vm["host"] = "h1"


@pytest.fixture
async def guest() -> AsyncIterator[Guest]:
    async with running_guest() as guest:
        yield guest


async def answered(guest: Guest, outcome: dict[str, Any] | Exception, *argv: str) -> Ran:
    """Runs gc with a host that answers so."""

    async def on_call(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    port = await guest.session(IDENTITY, on_call)
    ran = await guest.gc(*argv)
    await port.close()
    return ran


async def asked(guest: Guest, *argv: str) -> tuple[str, dict[str, Any]]:
    """What gc asks the host."""
    came: asyncio.Future[tuple[str, dict[str, Any]]] = asyncio.get_running_loop().create_future()

    async def on_call(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        came.set_result((verb, args))
        raise TimedOut("this is enough")

    port = await guest.session(IDENTITY, on_call)
    ran = await guest.gc(*argv)
    assert (ran.status, ran.out) == (110, "")
    await port.close()
    return await came


async def test_what_the_agent_knows_is_answered_bare(guest: Guest) -> None:
    await guest.session()
    assert await guest.gc("vmid") == Ran(0, "3\n", "")
    assert await guest.gc("my-ip") == Ran(0, "10.0.0.4\n", "")
    assert await guest.gc("generation") == Ran(0, "1\n", "")
    assert await guest.gc("ismaster") == Ran(1, "", "")


async def test_the_master_is_master(guest: Guest) -> None:
    await guest.session(MASTER)
    assert await guest.gc("vmid") == Ran(0, "0\n", "")
    assert await guest.gc("ismaster") == Ran(0, "", "")


@pytest.mark.parametrize(
    "word", ["0", "-1", "1025", "99999999999999999999", "", "nine", "9 ", "9x", "+9", "1e3", "0x9"]
)
async def test_a_count_that_is_none_is_one_clear_line(guest: Guest, word: str) -> None:
    ran = await guest.gc("clone", word)
    assert ran.status == 22
    assert ran.out == ""
    assert ran.err == f"gc: clone: expected a count from 1 to 1024 or a ticket, got '{word}'\n"


@pytest.mark.parametrize(
    "argv",
    [
        ["clone"],
        ["clone", "1", "2"],
        ["vmid", "x"],
        ["rt", "1", "1", "1"],
        ["rt", "0", "1", "1", "1"],
        ["rt", "1", "1", "1", "soon"],
        ["ltd"],
        ["ltd", "no-ticket"],
        ["sync", TICKET],
        ["sync", TICKET, "-5"],
        ["sync", "7", "5"],
        ["join", "256"],
        ["join", "1", "2"],
        ["join", TICKET, "soon"],
        ["join", "--file", "/no/such/file"],
        ["join", "--file", "/dev/zero"],
        ["join", TICKET, "--files", "/no/such/directory"],
        ["join", TICKET, "--files", "/dev/null"],
        ["join", "--files", "/tmp"],
        ["join", "7", "--files", "/tmp"],
        ["kill"],
        ["kill", "one"],
        ["kill-generation"],
        ["no-such-verb"],
        ["help", "no-such-verb"],
        ["clone", "two\nlines"],
    ],
    ids=" ".join,
)
async def test_wrong_arguments_are_one_line_and_never_sent(guest: Guest, argv: list[str]) -> None:
    await guest.session()
    ran = await guest.gc(*argv)
    assert ran.status == 22
    assert ran.out == ""
    assert ran.err.startswith("gc: ")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "verb", "args"),
    [
        ("clone 9", "clone", {"count": 9}),
        (f"clone {TICKET}", "clone", {"ticket": TICKET}),
        ("list", "list", {}),
        (
            "rt 4 1 2 1000",
            "request-ticket",
            {"maxcpus": 4, "minvms": 1, "mincpuspervm": 2, "timeout_ms": 1000},
        ),
        ("lt", "list-tickets", {}),
        (f"ltd {TICKET}", "list-ticket-domains", {"ticket": TICKET}),
        (f"sync {TICKET} 50", "sync", {"ticket": TICKET, "timeout_ms": 50}),
        ("sync", "sync", {}),
        ("join", "join", {"status": 0, "report": True}),
        ("join 7", "join", {"status": 7, "report": True}),
        ("join noreport", "join", {"status": 0, "report": False}),
        (f"join {TICKET}", "join-wait", {"ticket": TICKET}),
        (f"join {TICKET} 9", "join-wait", {"ticket": TICKET, "timeout_ms": 9}),
        ("kill 1 2", "kill", {"vmids": [1, 2]}),
        ("kill-generation 1", "kill-generation", {"vmid": 1}),
        ("killall", "killall", {}),
        ("stat", "stat", {}),
    ],
)
async def test_what_is_asked_of_the_host(
    guest: Guest, argv: str, verb: str, args: dict[str, Any]
) -> None:
    assert await asked(guest, *argv.split()) == (verb, args)


async def test_a_file_is_joined_with(guest: Guest) -> None:
    (guest.folder / "result").write_bytes(b"\0\1\2\3")
    _, args = await asked(guest, "join", "3", "--file", str(guest.folder / "result"))
    assert args == {"status": 3, "report": True, "file": "AAECAw=="}


async def test_the_largest_file_is_joined_with_and_one_byte_more_is_refused(guest: Guest) -> None:
    result = guest.folder / "result"
    result.write_bytes(bytes(49_152))
    _, args = await asked(guest, "join", "255", "--file", str(result))
    assert args["file"] == "AAAA" * 16_384
    result.write_bytes(bytes(49_153))
    ran = await guest.gc("join", "--file", str(result))
    says = f"gc: join: --file: expected at most 49152 bytes, {result} has more\n"
    assert ran == Ran(22, "", says)


async def test_what_clones_left_is_collected_page_by_page(guest: Guest) -> None:
    """A list that no message holds comes in parts; the host is told when the program has the last one."""
    came: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
    pages: dict[int | None, dict[str, Any]] = {
        None: {"clones": [{"vmid": 1, "status": 0, "file": "AAEC"}], "next": 1},
        1: {"clones": [{"vmid": 2, "status": 9, "file": ""}], "next": 2},
        2: {"clones": [{"vmid": 3, "status": -1, "file": None}]},
    }

    async def on_call(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        came.put_nowait((verb, args))
        return pages[args.get("after")] if verb == "join-wait" else {}

    await guest.session(IDENTITY, on_call)
    folder = guest.folder / "results"
    folder.mkdir()
    ran = await guest.gc("join", TICKET, "70", "--files", str(folder))
    assert ran == Ran(0, "1 0\n2 9\n3 -1\n", "")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "1": b"\0\1\2",
        "2": b"",
    }
    wait = {"ticket": TICKET, "timeout_ms": 70}
    async with asyncio.timeout(DEADLINE):
        assert [await came.get() for _ in range(4)] == [
            ("join-wait", wait),
            ("join-wait", {**wait, "after": 1}),
            ("join-wait", {**wait, "after": 2}),
            ("join-collected", {"ticket": TICKET}),
        ]


async def test_host_keys_are_lines_page_by_page(guest: Guest) -> None:
    asked: list[dict[str, Any]] = []
    lines = [f"web-{vmid},10.0.0.{vmid + 1} ssh-ed25519 AAAA" for vmid in range(5)]

    async def on_call(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        assert verb == "known-hosts"
        asked.append(args)
        return {"lines": lines[3:]} if "after" in args else {"lines": lines[:3], "next": 2}

    port = await guest.session(IDENTITY, on_call)
    ran = await guest.gc("known-hosts")
    assert (ran.status, ran.out.splitlines(), ran.err) == (0, lines, "")
    assert asked == [{}, {"after": 2}]
    await port.close()


async def test_a_file_that_cannot_be_kept_is_named(guest: Guest) -> None:
    (guest.folder / "1").mkdir()
    joined = {"clones": [{"vmid": 1, "status": 0, "file": "AAEC"}]}

    async def on_call(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        return joined

    await guest.session(IDENTITY, on_call)
    ran = await guest.gc("join", TICKET, "--files", str(guest.folder))
    assert (ran.status, ran.out) == (5, "1 0\n")
    assert ran.err == f"gc: join: --files: {guest.folder}/1: Is a directory\n"


async def test_the_list_is_a_table_or_json(guest: Guest) -> None:
    ran = await answered(guest, {"vms": VMS}, "list")
    assert ran.out == (
        "vmid  address    generation  parent  state     host\n"
        "0     10.0.0.1   0           -       running   h1\n"
        "12    10.0.0.13  1           0       starting  h1\n"
    )
    assert json.loads((await answered(guest, {"vms": VMS}, "list", "--json")).out) == VMS


async def test_a_list_of_a_thousand_machines_arrives(guest: Guest) -> None:
    many = [{**VMS[1], "vmid": vmid} for vmid in range(1024)]
    ran = await answered(guest, {"vms": many}, "list")
    assert ran.status == 0
    assert ran.out.count("\n") == 1025


async def test_tickets_and_clones_are_lines_that_scripts_cut(guest: Guest) -> None:
    ticket = {"id": TICKET, "status": "unused", "cpus": 2, "vms": 2, "mincpuspervm": 1}
    assert (await answered(guest, {"ticket": TICKET}, "rt", "2", "1", "1", "9")).out == (
        f"ticket {TICKET}\n"
    )
    ran = await answered(guest, {"tickets": [ticket, ticket]}, "lt")
    assert [line for line in ran.out.splitlines() if "ticket" in line] == [f"ticket {TICKET}"] * 2
    assert all(line.startswith((" ", "ticket")) for line in ran.out.splitlines())
    clones = [{"vmid": 1, "ip": "10.0.0.2", "state": "running"}]
    assert (await answered(guest, {"clones": clones}, "ltd", TICKET)).out == (
        "vmid 1\nip 10.0.0.2\nstate running\n"
    )
    joined = [{"vmid": 1, "status": 0}, {"vmid": 2, "status": -1}]
    assert (await answered(guest, {"clones": joined}, "join", TICKET)).out == "1 0\n2 -1\n"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NoRoom("no room for 9 clones: 3 fit"), 16),
        (NotFound("there is no such ticket"), 2),
        (BadInput("clone: no"), 22),
        (TimedOut("late"), 110),
        (CopperError("the host side failed", advice="look\nthere"), 5),
        (RuntimeError("a defect"), 5),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_failure_is_its_errno_and_one_line(
    guest: Guest, error: Exception, status: int
) -> None:
    ran = await answered(guest, error, "clone", "9")
    assert (ran.status, ran.out) == (status, "")
    assert ran.err.startswith("gc: clone: ")
    assert ran.err.count("\n") == 1
    assert "defect" not in ran.err  # what failed inside the host is its log's


async def test_without_an_identity_the_host_side_failed(guest: Guest) -> None:
    await guest.connection()
    ran = await guest.gc("vmid")
    assert (ran.status, ran.out) == (5, "")


async def test_without_an_agent_it_is_refused(guest: Guest) -> None:
    (guest.folder / "agent.sock").unlink()
    ran = await guest.gc("vmid")
    assert (ran.status, ran.out, ran.err.count("\n")) == (111, "", 1)
    assert "not running" in ran.err


async def test_without_permission_it_is_one_line(guest: Guest) -> None:
    await guest.session()
    assert guest.socket_path.stat().st_mode & 0o777 == 0o600
    if not other_user():
        guest.socket_path.chmod(0)
    program = await asyncio.create_subprocess_exec(
        guest.folder / "gc",
        "vmid",
        env={"GRIDCENTRIC_SOCKET": str(guest.socket_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **other_user(),
    )
    ran = await ended(program)
    assert (ran.status, ran.out, ran.err.count("\n")) == (13, "", 1)
    assert "permission" in ran.err


async def test_help_and_version_need_no_agent(guest: Guest) -> None:
    (guest.folder / "agent.sock").unlink()
    ran = await guest.gc("help")
    assert ran.status == 0
    for verb in ("clone", "vmid", "ismaster", "list", "my-ip", "rt", "lt", "ltd", "sync", "join"):
        assert f"  {verb}" in ran.out
    assert (await guest.gc("help", "rt")).out.startswith("usage: gc request-ticket MAXCPUS")
    assert (await guest.gc("--version")).out.startswith("gc ")
    nothing = await guest.gc()
    assert (nothing.status, nothing.out) == (22, "")


async def test_output_that_cannot_be_written_is_not_success(guest: Guest) -> None:
    await guest.session()
    program = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        f"exec {guest.folder}/gc vmid >/dev/full",
        env={"GRIDCENTRIC_SOCKET": str(guest.socket_path), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert (await ended(program)).status == 5


async def test_the_program_answers_to_its_other_name(guest: Guest) -> None:
    await guest.session()
    ran = await ended(await guest.program("vmid", name="gridcentric"))
    assert ran == Ran(0, "3\n", "")
