"""The guest of a fake machine: its calls, its few commands and their streams."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from copper.fake.host import DirectLink, FakeHost
from copper.fake.room import Room
from copper.host.vm import Vm
from copper.model.api import GuestCall, ThawOrder, VmEnded
from copper.model.errors import CopperError, NoRoom, Refused
from copper.model.machine import Identity
from copper.model.settings import Settings

TICKET = "00000000-0000-4000-8000-000000000000"
ANSWERS: dict[str, dict[str, Any]] = {
    "clone": {"vmid": 0, "vmids": [1]},
    "kill": {"vmids": [1]},
    "killall": {"vmids": []},
    "list": {
        "vms": [
            {
                "vmid": 0,
                "address": "10.0.0.1",
                "generation": 0,
                "parent": None,
                "state": "running",
                "host": "fake-0",
            }
        ]
    },
    "list-tickets": {
        "tickets": [{"id": TICKET, "status": "used", "cpus": 2, "vms": 2, "mincpuspervm": 1}]
    },
    "list-ticket-domains": {"clones": [{"vmid": 1, "ip": "10.0.0.2", "state": "running"}]},
    "request-ticket": {"ticket": TICKET},
}


LISTED = """\
vmid  address   generation  parent  state    host
0     10.0.0.1  0           -       running  fake-0
"""


class Answers:
    """A controller that answers as ANSWERS say."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.answer: Callable[[GuestCall], Awaitable[dict[str, Any]]] = self._answer

    async def _answer(self, call: GuestCall) -> dict[str, Any]:
        self.calls.append((call.verb, call.args))
        return ANSWERS[call.verb]

    async def ask(self, call: GuestCall) -> dict[str, Any]:
        return await self.answer(call)

    async def ended(self, ended: VmEnded) -> None:
        assert ended.reason


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
async def vm(answers: Answers) -> AsyncIterator[Vm]:
    """The clone a-1."""
    host = FakeHost(Room(), Settings(), DirectLink(answers.ask, answers.ended))
    identity = Identity(cluster="a", vmid=1, name="a-1", ip="10.0.0.2", parent=0, generation=1)
    made = await host.agent.vms.put("a-1", ThawOrder(identity=identity, template="micro"))
    yield made
    await host.agent.leave()


async def run(vm: Vm, *argv: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """A command's status, output and complaints."""
    async with await vm.port.exec(argv) as command:
        out, err, exit = await command.communicate(stdin)
    return exit.status, out.decode(), err.decode()


@pytest.mark.parametrize(
    ("argv", "status", "out"),
    [
        ("true", 0, ""),
        ("/bin/false", 1, ""),
        ("echo one two", 0, "one two\n"),
        ("hostname", 0, "a-1\n"),
        ("sleep 0", 0, ""),
        ("gc vmid", 0, "1\n"),
        ("gc my-ip", 0, "10.0.0.2\n"),
        ("gc ismaster", 1, ""),
        ("gc clone 1", 0, "0\n"),
        (f"gc clone {TICKET}", 0, "0\n"),
        ("gc rt 2 1 1 0", 0, f"ticket {TICKET}\n"),
        ("gc lt", 0, f"ticket {TICKET}\n  status used\n  cpus 2\n  vms 2\n  mincpuspervm 1\n"),
        (f"gc ltd {TICKET}", 0, "vmid 1\nip 10.0.0.2\nstate running\n"),
        ("gc kill 1", 0, ""),
        ("gc killall", 0, ""),
        ("gc list", 0, LISTED),
    ],
)
async def test_a_command_says_what_it_says_in_a_real_guest(
    vm: Vm, argv: str, status: int, out: str
) -> None:
    assert await run(vm, *argv.split()) == (status, out, "")


@pytest.mark.parametrize(
    ("argv", "status", "err"),
    [
        ("gc clone", 22, "gc: clone: expected COUNT|TICKET, got 0 arguments\n"),
        ("gc rt 1 1 x 0", 22, "gc: rt: MINCPUSPERVM: expected a number, got 'x'\n"),
        ("gc fly", 22, "gc: unknown verb 'fly' (a fake machine has clone, ismaster, kill, "),
        ("cat /etc/passwd", 1, "cat: a fake machine has no files\n"),
        ("sleep long", 1, "sleep: expected a number of seconds\n"),
    ],
)
async def test_what_a_command_does_not_take_is_said(
    vm: Vm, argv: str, status: int, err: str
) -> None:
    found, out, said = await run(vm, *argv.split())
    assert (found, out) == (status, "")
    assert said.startswith(err)


async def test_another_command_is_not_found_and_those_that_are_there_are_named(vm: Vm) -> None:
    async with await vm.port.exec(["sh", "-c", "true"]) as command:
        exit = await command.wait()
    assert (exit.status, exit.errno) == (127, errno.ENOENT)
    assert exit.message == ("a fake machine runs only cat, echo, false, gc, hostname, sleep, true")


async def test_files_and_the_serial_line_are_refused_in_a_line(vm: Vm) -> None:
    for work in (vm.port.push("/tmp/x", b""), vm.port.pull("/tmp/x"), vm.console.write(b"x")):
        with pytest.raises(Refused, match="a fake machine has no"):
            await work
    for use in (vm.console.attach, vm.machine.log):
        with pytest.raises(Refused, match="a fake machine has no serial line"):
            use()


async def test_a_call_gets_the_errno_that_a_real_guest_gets(vm: Vm, answers: Answers) -> None:
    async def refuse(call: GuestCall) -> dict[str, Any]:
        raise NoRoom("no processors left")

    answers.answer = refuse
    assert await run(vm, "gc", "clone", "3") == (16, "", "gc: no processors left\n")


async def test_an_end_of_the_session_ends_its_calls(vm: Vm, answers: Answers) -> None:
    cancelled = asyncio.Event()
    asked = asyncio.Event()

    async def hang(call: GuestCall) -> dict[str, Any]:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return {}

    answers.answer = hang
    async with await vm.port.exec(["gc", "list"]) as command:
        await asked.wait()
        await vm.begin("adopt", None, deadline_s=1)
        with pytest.raises(CopperError, match="another session began"):
            await command.wait()
    await cancelled.wait()
    assert await run(vm, "gc", "vmid") == (0, "1\n", "")


async def test_more_than_any_credit_goes_through_a_stream(vm: Vm) -> None:
    data = os.urandom(3_000_000)
    async with await vm.port.exec(["cat"]) as command:
        out, err, exit = await command.communicate(data)
    assert (out == data, err, exit.code) == (True, b"", 0)


async def test_a_signal_ends_a_command(vm: Vm) -> None:
    async with await vm.port.exec(["sleep", "1000"]) as command:
        assert command.pid
        command.signal(signal.SIGWINCH)
        command.signal(signal.SIGTERM)
        assert (await command.wait()).status == 128 + signal.SIGTERM


async def test_a_machine_that_dies_ends_its_streams(vm: Vm) -> None:
    async with await vm.port.exec(["sleep", "1000"]) as command:
        process = vm.machine
        await process.end()
        with pytest.raises(CopperError, match="closed"):
            await command.wait()
