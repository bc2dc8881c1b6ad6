"""What a guest's real agent bears: floods, garbage, long lines, crowds, programs that vanish."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from copper.wire import frames, messages
from copper.wire.frames import Frame
from tests.unit.guests import DEADLINE, Guest, RawHost, running_guest

MEMORY_KIB = 8192


@pytest.fixture
async def guest() -> AsyncIterator[Guest]:
    async with running_guest() as guest:
        yield guest
        while Client.opened:
            Client.opened.pop().writer.close()


class Client:
    """A program in the guest that speaks to the local socket itself, until the test ends at the latest."""

    opened: ClassVar[list[Client]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.opened.append(self)

    @classmethod
    async def of(cls, guest: Guest) -> Client:
        limit = 1 << 20
        return cls(*await asyncio.open_unix_connection(guest.socket_path, limit=limit))

    async def answer(self) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE):
            answer: dict[str, Any] = json.loads(await self.reader.readline())
        return answer

    async def ask(self, line: bytes) -> dict[str, Any]:
        self.writer.write(line + b"\n")
        return await self.answer()

    async def vmid(self) -> dict[str, Any]:
        return await self.ask(b'{"verb": "vmid"}')


VMID = {"errno": 0, "result": {"vmid": 3}}


async def test_the_local_socket_answers_lines(guest: Guest) -> None:
    await guest.session()
    client = await Client.of(guest)
    assert await client.vmid() == VMID
    assert (await client.ask(b'{"verb": "ismaster", "args": {}}'))["result"] == {"master": False}
    client.writer.write(b'{"verb": "vmid"}\n' * 3 + b'{"verb": "my-ip"}\n{"verb":')
    assert [await client.answer() for _ in range(3)] == [VMID] * 3
    assert (await client.answer())["result"] == {"ip": "10.0.0.4"}
    assert (await client.ask(b' "generation"}'))["result"] == {"generation": 1}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense",
        b"[]",
        b"7",
        b"{}",
        b'{"verb": 7}',
        b'{"verb": "dance"}',
        b'{"verb": "clone", "args": 7}',
        b'{"verb": "vmid\xff"}',
        b'{"verb": "\xed\xa0\x80"}',
        b"\0\0\0",
        b"[" * 60_000,
        b'{"verb": "list", "args": {"x": "' + b"y" * 2000 + b'"}}',
    ],
    ids=lambda line: repr(line[:24]),
)
async def test_a_line_that_makes_no_sense_is_answered(guest: Guest, line: bytes) -> None:
    await guest.session()
    client = await Client.of(guest)
    answer = await client.ask(line)
    assert answer["errno"] == 22
    assert answer["message"]
    assert await client.vmid() == VMID  # and the connection goes on


async def test_an_unknown_verb_is_told_the_known_ones(guest: Guest) -> None:
    answer = await (await Client.of(guest)).ask(b'{"verb": "dance"}')
    assert "clone, generation, ismaster" in answer["message"]


async def test_a_line_that_is_too_long_is_answered_and_ends_it(guest: Guest) -> None:
    await guest.session()
    client = await Client.of(guest)
    client.writer.write(b"x" * 66_561)
    assert (await client.answer())["errno"] == 22
    assert await client.reader.read() == b""
    assert await (await Client.of(guest)).vmid() == VMID


async def test_a_line_of_66560_bytes_is_taken(guest: Guest) -> None:
    await guest.session()
    client = await Client.of(guest)
    line = b'{"verb": "vmid", "args": {"x": "' + b"y" * 66_560
    assert await client.ask(line[: 66_560 - 4] + b'"}}') == VMID


async def test_200_programs_at_once_are_all_answered(guest: Guest) -> None:
    await guest.session()
    clients = await asyncio.gather(*(Client.of(guest) for _ in range(200)))
    for _ in range(3):
        assert await asyncio.gather(*(client.vmid() for client in clients)) == [VMID] * 200


async def test_one_program_more_than_there_is_room_for_waits(guest: Guest) -> None:
    await guest.session()
    clients = await asyncio.gather(*(Client.of(guest) for _ in range(256)))
    await asyncio.gather(*(client.vmid() for client in clients))
    late = await Client.of(guest)
    late.writer.write(b'{"verb": "vmid"}\n')
    assert await clients[0].vmid() == VMID
    clients[1].writer.close()
    assert await late.answer() == VMID


async def test_200_calls_at_once_reach_the_host_and_come_back(guest: Guest) -> None:
    async def on_call(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        return {"echo": args["x"]}

    await guest.session(on_call=on_call)
    clients = await asyncio.gather(*(Client.of(guest) for _ in range(200)))
    lines = [b'{"verb": "kill", "args": {"x": "%d%s"}}' % (n, b"." * 4000) for n in range(200)]
    answers = await asyncio.gather(
        *(client.ask(line) for client, line in zip(clients, lines, strict=True))
    )
    for number, answer in enumerate(answers):
        assert answer["result"]["echo"].rstrip(".") == str(number)


async def test_programs_that_vanish_at_any_moment_leave_nothing(guest: Guest) -> None:
    open_calls = set()
    idle = asyncio.Event()

    async def on_call(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        open_calls.add(call)
        idle.clear()
        try:
            await asyncio.get_running_loop().create_future()
            raise AssertionError("nobody answers this")
        finally:
            open_calls.discard(call)
            if not open_calls:
                idle.set()

    await guest.session(on_call=on_call)
    chance = random.Random(3)
    line = b'{"verb": "clone", "args": {"count": 2}}\n'
    for _ in range(300):
        client = await Client.of(guest)
        client.writer.write(line[: chance.choice([0, 5, len(line), len(line)])])
        await client.writer.drain()
        client.writer.close()
    assert await (await Client.of(guest)).vmid() == VMID
    async with asyncio.timeout(DEADLINE):
        while open_calls:
            await idle.wait()


async def test_an_answer_reaches_a_program_that_sends_no_more(guest: Guest) -> None:
    async def on_call(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        return {"vms": []}

    await guest.session(on_call=on_call)
    client = await Client.of(guest)
    client.writer.write(b'{"verb": "list"}\n')
    client.writer.write_eof()
    assert (await client.answer())["errno"] == 0
    assert await client.reader.read() == b""


GARBAGE = {
    "random bytes": random.Random(5).randbytes(65536) * 100,
    "no zero": b"\1" * 8_000_000,
    "zeros": bytes(8_000_000),
    "short frames": b"\2\1\0" * 2_000_000,
    "frames of another session": frames.encode(Frame(frames.DATA, 9, b"x" * 32768, 1)) * 100,
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_from_the_host_changes_nothing(guest: Guest, garbage: bytes) -> None:
    host = RawHost(await guest.connection())
    await host.begin(5)
    await host.send(garbage + b"\0")
    await host.tell(5, type="ping", id=1)
    assert await host.message() == (5, messages.Pong("pong", 1))
    host.sock.close()


NONSENSE: list[dict[str, Any]] = [
    {"type": "exec"},
    {"type": "exec", "stream": 2, "argv": "ls"},
    {"type": "exec", "stream": 3, "argv": [1, 2]},
    {"type": "exec", "stream": 4, "argv": ["true"], "env": [], "cwd": 5, "tty": "yes"},
    {"type": "exec", "stream": -5, "argv": ["true"], "tty": {"rows": -1, "cols": 10**12}},
    {"type": "push", "stream": 6},
    {"type": "push", "stream": 7, "path": ""},
    {"type": "pull", "stream": 8, "path": ["x"]},
    {"type": "credit", "stream": 4, "channel": 77, "bytes": 5},
    {"type": "credit", "stream": 4, "channel": 1, "bytes": -(2**62)},
    {"type": "signal", "stream": 4, "signal": 4000},
    {"type": "close", "stream": 999},
    {"type": "reply"},
    {"type": "reply", "call": 2**60, "result": 7},
    {"type": "session", "session": 0},
    {"type": "session", "session": 77, "identity": {"vmid": "x"}},
    {"type": "ping", "id": "x"},
    {"type": "dance"},
    {"no": "type"},
]


async def test_messages_that_make_no_sense_change_nothing(guest: Guest) -> None:
    host = RawHost(await guest.connection())
    await host.begin(5)
    for message in NONSENSE:
        await host.send(messages.pack(5, message))
    await host.tell(5, type="ping", id=2**31)
    while (await host.message())[1] != messages.Pong("pong", 2**31):
        pass
    host.sock.close()


async def test_a_host_that_does_not_read_is_not_read_and_nothing_is_lost(guest: Guest) -> None:
    host = RawHost(await guest.connection())
    await host.begin(5)

    async def ask() -> None:
        for number in range(20_000):
            await host.tell(5, type="ping", id=number)

    asking = asyncio.create_task(ask())
    for number in range(20_000):
        assert (await host.message())[1] == messages.Pong("pong", number)
    await asking
    host.sock.close()


async def test_memory_stays_below_8_mib_whatever_comes() -> None:
    async with running_guest(sanitized=False) as guest:
        host = RawHost(await guest.connection())
        await host.begin(5)
        clients = await asyncio.gather(*(Client.of(guest) for _ in range(250)))
        for client in clients:
            client.writer.write(b'{"x": "' + b"y" * 60_000)  # lines that never end
        for stream in range(64):
            await host.tell(5, type="exec", stream=stream, argv=["sleep", "1000"])
            await host.send(frames.encode(Frame(frames.DATA, 5, b"x" * 32768, stream)))
        for nested in ('{"":[' * 2000, "[1," * 80_000, "[{}," * 60_000, '"' + "x" * 260_000):
            text = nested.encode()
            parts = [text[at : at + 32768] for at in range(0, len(text), 32768)]
            for part in parts[:-1]:
                more = Frame(frames.MESSAGE, 5, part, flags=frames.MORE)
                await host.send(frames.encode(more))
            await host.send(frames.encode(Frame(frames.MESSAGE, 5, parts[-1])))
        for _ in range(256):
            await host.send(b"\1" * (1 << 20))
        await host.send(b"\0")
        await host.tell(5, type="ping", id=1)
        while (await host.message())[1] != messages.Pong("pong", 1):
            pass
        for stream in range(64):
            await host.tell(5, type="close", stream=stream)
        assert guest.memory_kib() < MEMORY_KIB
        for client in clients:
            client.writer.close()
        assert await (await Client.of(guest)).vmid() == VMID
        host.sock.close()
