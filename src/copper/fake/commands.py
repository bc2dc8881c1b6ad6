"""The few commands that a fake machine runs: enough to fork it from a command line and to try streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from copper.fake.process import FIRST_PID
from copper.host.streams import CREDIT_IN, Stream
from copper.wire.frames import PAYLOAD_MOST, STDERR, STDIN, STDOUT
from copper.wire.messages import Exit, Started

if TYPE_CHECKING:
    from copper.fake.guest import FakeGuest


class _Wrong(Exception):
    """A word that a command does not take."""


class Command:
    """One command of a guest, and its stream."""

    def __init__(self, guest: FakeGuest, stream: Stream, argv: list[str]) -> None:
        self.guest, self.stream, self.argv = guest, stream, argv
        self._input: asyncio.Queue[bytes] = asyncio.Queue()
        self._credit = {STDOUT: CREDIT_IN, STDERR: CREDIT_IN}
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        run = _COMMANDS.get(self.argv[0].removeprefix("/bin/").removeprefix("/usr/bin/"))
        if run is None:
            known = ", ".join(sorted(_COMMANDS))
            why = f"a fake machine runs only {known}"
            self.guest.forget(self.stream.number)
            self.stream.take_exit(Exit("exit", self.stream.number, errno=2, message=why))
            return
        self.stream.take_started(
            Started("started", self.stream.number, pid=FIRST_PID + self.stream.number)
        )
        self._task = asyncio.create_task(self._run(run))

    async def _run(self, run: Callable[[Command], Awaitable[int]]) -> None:
        self._exit(code=await run(self))

    def _exit(self, code: int | None = None, killed: int | None = None) -> None:
        self.guest.forget(self.stream.number)
        self.stream.take_exit(Exit("exit", self.stream.number, code=code, signal=killed))

    async def read(self) -> bytes:
        """The next of standard input; nothing at its end."""
        data = await self._input.get()
        if data:
            self.stream.take_credit(STDIN, len(data))
        return data

    async def write(self, data: bytes, channel: int = STDOUT) -> None:
        """Waits for whoever reads it."""
        for at in range(0, len(data), PAYLOAD_MOST):
            part = data[at : at + PAYLOAD_MOST]
            while self._credit[channel] < len(part):
                self._more.clear()
                await self._more.wait()
            self._credit[channel] -= len(part)
            self.stream.take_data(channel, part)

    async def say(self, text: str, channel: int = STDOUT) -> None:
        await self.write(text.encode(), channel)

    # what the stream tells

    def feed(self, data: bytes, *, end: bool) -> None:
        if data:
            self._input.put_nowait(data)
        if end:
            self._input.put_nowait(b"")

    def told(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "credit":
                self._credit[message["channel"]] += message["bytes"]
                self._more.set()
            case "signal":
                if message["signal"] not in (signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG):
                    self.end()
                    self._exit(killed=message["signal"])
            case "close":
                self.end()

    def end(self) -> None:
        if self._task is not None:
            self._task.cancel()


async def _true(_: Command) -> int:
    return 0


async def _false(_: Command) -> int:
    return 1


async def _echo(command: Command) -> int:
    await command.say(" ".join(command.argv[1:]) + "\n")
    return 0


async def _sleep(command: Command) -> int:
    with contextlib.suppress(ValueError, IndexError):
        await asyncio.sleep(float(command.argv[1]))
        return 0
    await command.say("sleep: expected a number of seconds\n", STDERR)
    return 1


async def _cat(command: Command) -> int:
    if command.argv[1:] not in ([], ["-"]):
        await command.say("cat: a fake machine has no files\n", STDERR)
        return 1
    while data := await command.read():
        await command.write(data)
    return 0


async def _hostname(command: Command) -> int:
    await command.say(command.guest.identity.name + "\n")
    return 0


async def _gc(command: Command) -> int:
    words = command.argv[1:] or ["help"]
    verb = _GC.get(words[0])
    if verb is None:
        known = ", ".join(sorted(_GC))
        await command.say(f"gc: unknown verb {words[0]!r} (a fake machine has {known})\n", STDERR)
        return 22
    try:
        out, status = await verb(command.guest, words[1:])
    except _Wrong as error:
        await command.say(f"gc: {words[0]}: {error}\n", STDERR)
        return 22
    except OSError as error:
        await command.say(f"gc: {error.strerror or error}\n", STDERR)
        return error.errno or 111
    await command.say(out)
    return status


Answer = tuple[str, int]


async def _clone(guest: FakeGuest, words: list[str]) -> Answer:
    (what,) = _exactly(words, "COUNT|TICKET")
    args = {"count": int(what)} if what.isdigit() else {"ticket": what}
    return f"{(await guest.call('clone', args))['vmid']}\n", 0


async def _request_ticket(guest: FakeGuest, words: list[str]) -> Answer:
    names = ("MAXCPUS", "MINVMS", "MINCPUSPERVM", "TIMEOUT_MS")
    numbers = [
        _number(name, word) for name, word in zip(names, _exactly(words, *names), strict=True)
    ]
    args = dict(zip(map(str.lower, names), numbers, strict=True))
    return f"ticket {(await guest.call('request-ticket', args))['ticket']}\n", 0


async def _vmid(guest: FakeGuest, words: list[str]) -> Answer:
    _exactly(words)
    return f"{guest.identity.vmid}\n", 0


async def _my_ip(guest: FakeGuest, words: list[str]) -> Answer:
    _exactly(words)
    return f"{guest.identity.ip}\n", 0


async def _ismaster(guest: FakeGuest, words: list[str]) -> Answer:
    _exactly(words)
    return "", int(guest.identity.vmid != 0)


async def _list_tickets(guest: FakeGuest, words: list[str]) -> Answer:
    _exactly(words)
    lines = []
    for ticket in (await guest.call("list-tickets", {}))["tickets"]:
        lines.append(f"ticket {ticket['id']}")
        lines += [f"  {key} {ticket[key]}" for key in ("status", "cpus", "vms", "mincpuspervm")]
    return _lines(lines), 0


async def _list_ticket_domains(guest: FakeGuest, words: list[str]) -> Answer:
    (ticket,) = _exactly(words, "TICKET")
    clones = (await guest.call("list-ticket-domains", {"ticket": ticket}))["clones"]
    return _lines([f"{key} {clone[key]}" for clone in clones for key in ("vmid", "ip", "state")]), 0


async def _list(guest: FakeGuest, words: list[str]) -> Answer:
    vms = (await guest.call("list", {}))["vms"]
    if words == ["--json"]:
        return json.dumps(vms, indent=2) + "\n", 0
    _exactly(words)
    heads = ["vmid", "address", "generation", "parent", "state", "host"]
    rows = [heads, *(["-" if vm[key] is None else str(vm[key]) for key in heads] for vm in vms)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(heads) - 1)]
    return _lines(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ), 0


async def _known_hosts(guest: FakeGuest, words: list[str]) -> Answer:
    _exactly(words)
    lines: list[str] = []
    after: dict[str, int] = {}
    while True:
        page = await guest.call("known-hosts", after)
        lines += page["lines"]
        if "next" not in page:
            return _lines(lines), 0
        after = {"after": page["next"]}


async def _kill(guest: FakeGuest, words: list[str]) -> Answer:
    await guest.call("kill", {"vmids": [_number("a vmid", word) for word in words]})
    return "", 0


async def _killall(guest: FakeGuest, words: list[str]) -> Answer:
    _exactly(words)
    await guest.call("killall", {})
    return "", 0


def _exactly(words: list[str], *names: str) -> list[str]:
    if len(words) != len(names):
        raise _Wrong(f"expected {' '.join(names) or 'nothing'}, got {len(words)} arguments")
    return words


def _number(what: str, word: str) -> int:
    if not word.isdigit():
        raise _Wrong(f"{what}: expected a number, got {word!r:.40}")
    return int(word)


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


_GC: dict[str, Callable[[FakeGuest, list[str]], Awaitable[Answer]]] = {
    "clone": _clone,
    "ismaster": _ismaster,
    "kill": _kill,
    "killall": _killall,
    "known-hosts": _known_hosts,
    "list": _list,
    "list-ticket-domains": _list_ticket_domains,
    "list-tickets": _list_tickets,
    "lt": _list_tickets,
    "ltd": _list_ticket_domains,
    "my-ip": _my_ip,
    "request-ticket": _request_ticket,
    "rt": _request_ticket,
    "vmid": _vmid,
}
_COMMANDS: dict[str, Callable[[Command], Awaitable[int]]] = {
    "cat": _cat,
    "echo": _echo,
    "false": _false,
    "gc": _gc,
    "hostname": _hostname,
    "sleep": _sleep,
    "true": _true,
}
