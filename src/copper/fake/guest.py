"""The guest of a fake machine: it takes its identity at once, calls as programs do, and runs a few commands."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import AsyncIterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from copper.fake.faults import DURING
from copper.fake.process import refused
from copper.host.guest_calls import GuestCalls
from copper.host.streams import PulledFile, Stream
from copper.model.errors import Conflict, CopperError, TimedOut
from copper.model.machine import Identity
from copper.model.ssh import public_key_of
from copper.wire.messages import Call, Ready

if TYPE_CHECKING:
    from copper.fake.commands import Command
    from copper.fake.hypervisor import FakeMachine

VERSION = "fake"
ECHO = 7  # RFC 862
_echoing: set[asyncio.Task[None]] = set()


async def _echo(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection(sock=sock)
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()


class FakeGuest:
    """Both ends of a guest's channel, without the channel: what `GuestPort` is to a real one."""

    __slots__ = ("_calls", "_commands", "_machine", "_numbers", "_waiting", "login_key", "ready")

    def __init__(self, machine: FakeMachine) -> None:
        self._machine = machine
        self.ready = False
        self.login_key: dict[str, str] | None = None
        self._calls: GuestCalls | None = None  # made when a program calls: most never do
        self._commands: dict[int, Command] | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] | None = None
        self._numbers: itertools.count[int] | None = None

    @property
    def identity(self) -> Identity:
        return self._machine.identity

    async def begin(
        self,
        identity: Mapping[str, Any],
        event: str,
        call: int | None = None,
        *,
        hosts: str = "",
        deadline: float,
    ) -> Ready:
        """A session, in which the guest is `identity`; what the former one held is over."""
        process = self._machine.process
        self.lost(CopperError("another session began"))
        faults = self._machine.place.faults
        fault = faults.take("begin", DURING) if faults else None
        if fault is not None:
            if fault.kind == "fail":
                raise fault.error
            if fault.kind == "die":
                self._machine.place.end(process, "its QEMU was killed")
                raise CopperError("the guest's channel was closed")
            try:
                async with asyncio.timeout(deadline):
                    await faults.hold(fault)
            except TimeoutError:
                pass
        if (fault is not None and not fault.go_on.is_set()) or process.since is None:
            raise TimedOut(f"the guest did not take its identity within {deadline:g} s")
        self._machine.process.check()
        self.ready = True
        new = event in ("boot", "clone") and self._machine.has_ssh
        self.login_key = identity.get("login_key", self.login_key)
        key = public_key_of(os.urandom(32)) if new else ""
        public = identity.get("net", {}).get("public", ())
        return Ready("ready", 0, VERSION, 0, 0, key, len(public))

    def tell_hosts(self, lines: str, prefix: int) -> bool:
        """Nobody reads it."""
        return True

    # programs that call

    async def call(self, verb: str, args: dict[str, Any]) -> dict[str, Any]:
        """The result of a call, on the way that a real guest's takes. Raises OSError as libraries in guests do."""
        if not self.ready:
            raise ConnectionRefusedError("the guest has no session")
        if self._calls is None or self._waiting is None:
            self._calls = GuestCalls(self._on_call, self._replied, _at_once)
            self._waiting = {}
        number = self._next()
        answer: asyncio.Future[dict[str, Any]]
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._calls.take(Call("call", number, verb, args))
        try:
            return await answer
        finally:
            self._waiting.pop(number, None)
            self._calls.cancel(number)

    def _next(self) -> int:
        if self._numbers is None:
            self._numbers = itertools.count(1)
        return next(self._numbers)

    async def _on_call(self, verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        return await self._machine.listener.called(self._machine.name, verb, args, call)

    def _replied(self, message: dict[str, Any]) -> None:
        answer = self._waiting.get(message["call"]) if self._waiting else None
        if answer is None or answer.done():
            return
        if message["errno"]:
            answer.set_exception(OSError(message["errno"], message["message"]))
        else:
            answer.set_result(message["result"])

    # commands

    async def exec(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        tty: Mapping[str, Any] | None = None,
    ) -> Stream:
        """Runs one of the few commands that a fake machine has."""
        from copper.fake.commands import Command

        self._check()
        if self._commands is None:
            self._commands = {}
        number = self._next()
        stream = Stream(self, number)
        command = self._commands[number] = Command(self, stream, list(argv))
        command.start()
        await stream.started()
        return stream

    async def push(
        self,
        path: str,
        source: bytes | AsyncIterable[bytes],
        *,
        name: str = "",
        mode: int = 0o644,
        mtime_ns: int | None = None,
    ) -> str:
        """A fake machine has no files. Raises Refused."""
        raise refused("files")

    async def pull(self, path: str) -> PulledFile:
        """Raises Refused."""
        raise refused("files")

    def connect(self, port: int) -> socket.socket:
        """It echoes what comes to one port, and listens on no other."""
        if port != ECHO:
            raise ConnectionRefusedError
        ours, its = socket.socketpair()
        task = asyncio.create_task(_echo(its))
        _echoing.add(task)
        task.add_done_callback(_echoing.discard)
        ours.setblocking(False)
        return ours

    def _check(self) -> None:
        self._machine.process.check()
        if not self.ready:
            raise Conflict("the guest has not taken its identity")

    # what streams tell: see `Outlet`

    def send(self, message: dict[str, Any]) -> None:
        command = self._commands.get(message["stream"]) if self._commands else None
        if command is not None:
            command.told(message)

    def send_data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        command = self._commands.get(stream) if self._commands else None
        if command is not None:
            command.feed(data, end=end)

    async def room(self) -> None:
        """There always is."""

    def forget(self, stream: int) -> None:
        if self._commands:
            self._commands.pop(stream, None)

    # endings

    def lost(self, error: CopperError) -> None:
        """The session is over."""
        self.ready = False
        if self._calls is not None:
            self._calls.leave()
        for answer in (self._waiting or {}).values():
            if not answer.done():
                answer.set_exception(ConnectionResetError(str(error)))
                answer.exception()  # whoever waited may have been cancelled
        commands, self._commands = self._commands, None
        for command in (commands or {}).values():
            command.end()
            command.stream.fail(error)

    async def close(self) -> None:
        """Returns when the calls in flight have ended."""
        self.lost(CopperError("the guest's channel was closed"))
        if self._calls is not None:
            await self._calls.ended()


async def _at_once() -> None:
    return None


def message_of(error: OSError) -> str:
    """What `gc` says of an error, without the number."""
    return error.strerror or os.strerror(error.errno or 5)
