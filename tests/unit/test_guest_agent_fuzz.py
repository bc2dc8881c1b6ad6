"""Made-up requests on both sides of a guest's real agent: COPPER_SOAK=1 makes 100,000 of each."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from copper.wire import frames, messages
from copper.wire.frames import Frame
from tests.unit.guests import DEADLINE, TICKET, Guest, RawHost, running_guest

REQUESTS = 100_000 if os.environ.get("COPPER_SOAK") else 2_000
MEMORY_KIB = 8192
CLIENTS = 200
VERBS = [
    *("clone", "generation", "ismaster", "join", "join-wait", "kill", "kill-generation", "killall"),
    *("list", "list-ticket-domains", "list-tickets", "my-ip", "request-ticket", "stat", "sync"),
    *("version", "vmid", "join-collected", "fly", "", "CLONE", "vmid\0", "é"),
]
TYPES = [
    *("session", "reply", "exec", "signal", "resize", "push", "pull", "credit", "close", "ping"),
    *("hello", "dance", ""),
]


class Chance(random.Random):
    """Values that peers might send, or must not."""

    def value(self, depth: int = 0) -> Any:
        numbers = [0, 1, -1, 255, 2**31, 2**32, 2**53, -(2**62), 1.5, 1e300]
        texts = ["", "x", TICKET, "vmid", "\0", "é", "\U0001f600", "x" * self.choice([40, 5000])]
        one = self.choice([None, True, False, self.choice(numbers), self.choice(texts)])
        if depth < 3 and self.random() < 0.3:
            many = range(self.randrange(5))
            if self.random() < 0.5:
                return [self.value(depth + 1) for _ in many]
            return {self.choice(texts): self.value(depth + 1) for _ in many}
        return one

    def mutated(self, data: bytes) -> bytes:
        """The bytes, or some that are nearly them."""
        if not data or self.random() < 0.6:
            return data
        at = self.randrange(len(data))
        what = self.randrange(4)
        if what == 0:
            return data[:at]
        if what == 1:
            return data[:at] + self.randbytes(3) + data[at:]
        if what == 2:
            return data[:at] + bytes([self.randrange(256)]) + data[at + 1 :]
        return data[:at] + data[at:] * 2

    def request(self) -> bytes:
        """A line of a program's."""
        names = ("ticket", "count", "timeout_ms", "vmids", "vmid", "status", "file", "after")
        args: Any = {name: self.value() for name in self.sample(names, self.randrange(4))}
        if self.random() < 0.1:
            args = self.value()
        request: dict[str, Any] = {"verb": self.choice(VERBS), "args": args}
        if self.random() < 0.1:
            request[self.choice(["verb", "args", "x"])] = self.value()
        if self.random() < 0.01:
            return b"[" * self.randrange(60_000)
        return self.mutated(json.dumps(request).encode())

    def message(self, folder: Path, calls: list[int]) -> bytes:
        """What a host might send, as frames of session 5; files are its own folder's only."""
        names = ("errno", "message", "result", "signal", "rows", "cols", "channel", "bytes", "id")
        message: dict[str, Any] = {name: self.value() for name in self.sample(names, 4)}
        message["type"] = self.choice(TYPES)
        message["stream"] = self.randrange(20)
        message["call"] = self.choice(calls or [1])
        message["session"] = self.choice([5, 5, 5, 0, "x"])
        message["path"] = self.choice([str(folder / "pushed"), "", str(folder), None])
        message["argv"] = self.choice([["true"], ["/no/such"], [], ["cat"], [1], "true", None])
        message["tty"] = self.choice(
            [None, None, {"rows": 24, "cols": 80, "term": "x"}, self.value()]
        )
        if message["type"] == "session":
            message["session"] = self.choice([0, "x", None, 5])
        whole = messages.pack(5, message)
        data = Frame(frames.DATA, 5, self.randbytes(self.randrange(2000)), self.randrange(20))
        return self.mutated(self.choice([whole, whole, whole, frames.encode(data)])) + b"\0"


async def vmid(guest: Guest) -> bytes:
    reader, writer = await asyncio.open_unix_connection(guest.socket_path)
    writer.write(b'{"verb": "vmid"}\n')
    async with asyncio.timeout(DEADLINE):
        answer = await reader.readline()
    writer.close()
    return answer


class Reader:
    """A host that reads what the agent sends, and knows the calls that it was asked."""

    def __init__(self, host: RawHost) -> None:
        self.calls: list[int] = []
        self.pongs: set[int] = set()
        self.came = asyncio.Event()
        self._host = host

    async def run(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                async with asyncio.timeout(None):
                    data = await asyncio.get_running_loop().sock_recv(self._host.sock, 65536)
                if not data:
                    return
                for frame in self._host._reader.feed(data):
                    self._take(frame)

    def _take(self, frame: Frame) -> None:
        if frame.kind != frames.MESSAGE or frame.flags & frames.MORE:
            return
        with contextlib.suppress(ValueError):
            message = messages.parse(frame.payload)
            if isinstance(message, messages.Call):
                self.calls = [*self.calls[-50:], message.call]
            elif isinstance(message, messages.Pong):
                self.pongs.add(message.id)
                self.came.set()

    async def pong(self, number: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while number not in self.pongs:
                self.came.clear()
                await self.came.wait()


@pytest.mark.timeout(0 if os.environ.get("COPPER_SOAK") else 600)
@pytest.mark.parametrize("sanitized", [True, False], ids=["checked", "small"])
async def test_made_up_requests_on_both_sides_change_nothing(sanitized: bool) -> None:
    chance = Chance(17)
    async with running_guest(sanitized=sanitized) as guest:
        host = RawHost(await guest.connection())
        await host.begin(5)
        reader = Reader(host)
        reading = asyncio.create_task(reader.run())
        left = itertools.count()

        async def program() -> None:
            """Programs that ask, one after the other, and go away whenever they like."""
            while next(left) < REQUESTS:
                socket = await asyncio.open_unix_connection(guest.socket_path)
                for _ in range(chance.randrange(1, 8)):
                    if next(left) >= REQUESTS:
                        break
                    with contextlib.suppress(OSError):
                        socket[1].write(chance.request() + b"\n")
                        if chance.random() < 0.5:
                            await socket[1].drain()
                            async with asyncio.timeout(0.002):
                                await socket[0].read(65536)
                socket[1].close()

        async def messages_of_the_host() -> None:
            for number in range(REQUESTS):
                await host.send(chance.message(guest.folder, reader.calls))
                if number % 500 == 0:
                    await host.tell(5, type="ping", id=10_000_000 + number)
                    await reader.pong(10_000_000 + number)

        async with asyncio.TaskGroup() as both:
            for _ in range(20):
                both.create_task(program())
            both.create_task(messages_of_the_host())
        assert await vmid(guest) == b'{"errno":0,"result":{"vmid":3}}\n'
        if not sanitized:
            assert guest.memory_kib() < MEMORY_KIB
        for stream in range(20):
            await host.tell(5, type="close", stream=stream)
        await host.tell(5, type="ping", id=77)
        await reader.pong(77)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        host.sock.close()


async def test_200_programs_at_once_with_hooks_that_all_vanish() -> None:
    async with running_guest(sanitized=False) as guest:
        hook = guest.folder / "etc/pre-clone"
        hook.parent.mkdir()
        hook.write_text("#!/bin/sh\nyes | head -c 100000\nexit 1\n")
        hook.chmod(0o755)
        host = RawHost(await guest.connection())
        await host.begin(5)
        clients = [await asyncio.open_unix_connection(guest.socket_path) for _ in range(CLIENTS)]
        for _, writer in clients:
            writer.write(b'{"verb": "clone", "args": {"count": 2, "x": "%s"}}\n' % (b"y" * 5000))
        async with asyncio.timeout(DEADLINE):
            assert b"hook pre-clone" in await clients[0][0].readline()
        for _, writer in clients:
            writer.close()
        assert await vmid(guest) == b'{"errno":0,"result":{"vmid":3}}\n'
        assert guest.memory_kib() < MEMORY_KIB
        host.sock.close()
