"""The host's end of one guest's channel: sessions, calls of programs in the guest, streams.

    port = GuestPort(sock, on_call=answer)
    ready = await port.begin(identity, "clone", call=7, deadline=10)
    async with await port.exec(["uname", "-a"]) as command:
        out, err, exit = await command.communicate()

A guest is not trusted: whatever it sends, memory and time spent on it are bounded, and only its own
sessions, streams and calls suffer.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from typing import Any

from copper.host.guest_calls import GuestCalls, OnCall
from copper.host.guest_socket import GuestSocket
from copper.host.streams import PulledFile, Stream, error_of
from copper.model.errors import BadInput, Conflict, CopperError, TimedOut
from copper.wire import frames, messages, trace
from copper.wire.frames import Frame, FrameReader

UNSENT_MOST = 1 << 20  # bytes; calls of a guest that reads nothing are dropped above it
RESENT_BELOW = 65_536  # bytes not yet sent
# ends the frame that was being sent when the guest was frozen, and makes it unsound, should only its ending
# zero be missing: no COBS ends with bytes that say that 254 follow
SPOIL = b"\xff" * 8 + b"\0"

OnHello = Callable[[messages.Hello], None]


async def _no_verbs(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
    raise BadInput(f"{verb}: not a verb of this host")


class GuestPort:
    """Over a connected Unix socket, which it owns from then on; needs a running event loop.

    `on_call(verb, args, call)` answers a program in the guest with its result, or raises a
    CopperError, whose errno and text the program sees; it is cancelled when the program goes away or
    the session ends. `on_hello` is told when an agent speaks that has no session: a guest that
    booted, or whose agent was started again; then what the session held is over.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_call: OnCall = _no_verbs,
        on_hello: OnHello | None = None,
    ) -> None:
        self.closed = asyncio.Event()
        self._hello: messages.Hello | None = None
        self._on_hello = on_hello
        self._loop = asyncio.get_running_loop()
        self._reader, self._assembly = FrameReader(), messages.Assembly()
        self._dropped = 0
        self._session, self._beginning = 0, b""
        self._ready: asyncio.Future[messages.Ready] | None = None
        self._deadline: asyncio.Timeout | None = None
        self._is_ready = False
        self._hello_came = asyncio.Event()
        self._streams: dict[int, Stream] = {}
        self._last_stream = secrets.randbits(31)  # not the number of a former host agent's stream
        self._calls = GuestCalls(on_call, self.send, self.room)
        self._pings: dict[int, asyncio.Future[None]] = {}
        self._last_ping = 0
        self._socket = GuestSocket(sock, self._received, self._lost)

    @property
    def session(self) -> int:
        """The number of the session that was begun last; 0 before the first."""
        return self._session

    @property
    def dropped(self) -> int:
        """How many frames and messages were not sound, or not of this session."""
        return self._dropped + self._reader.dropped + self._assembly.dropped

    async def wait_hello(self, deadline: float) -> messages.Hello:
        """Waits until an agent without a session has spoken. Raises TimedOut, CopperError if closed."""
        try:
            async with asyncio.timeout(deadline):
                await self._hello_came.wait()
        except TimeoutError:
            raise TimedOut(f"no agent spoke in the guest within {deadline:g} s") from None
        if self._hello is None:
            raise CopperError("the guest's channel was closed")
        return self._hello

    async def begin(
        self,
        identity: Mapping[str, Any],
        event: str,
        call: int | None = None,
        *,
        hosts: str = "",
        deadline: float,
    ) -> messages.Ready:
        """Begins a session, in which the guest is `identity`; what the former one held is over.

        `event` is boot, clone, adopt or resume; `call` the parent's call that a clone answers; `hosts` lines for
        /etc/hosts. Raises TimedOut
        `deadline` seconds from now, or later by what hooks take, CopperError if it cannot, or the channel closes.
        """
        if self.closed.is_set():
            raise CopperError("the guest's channel was closed")
        self._leave(CopperError("another session began"))
        self._session = _other_than(self._session)
        message = messages.session(self._session, identity, event, call, hosts)
        self._beginning = messages.pack(self._session, message)
        self._ready = self._loop.create_future()
        self._socket.drop_queue()
        self._socket.send(SPOIL + self._beginning)
        try:
            async with asyncio.timeout(deadline) as self._deadline:
                return await self._ready
        except TimeoutError:
            raise TimedOut(f"the guest did not take its identity within {deadline:g} s") from None
        finally:
            self._deadline = None

    def tell_hosts(self, lines: str, prefix: int) -> bool:
        """The other VMs' names are these now; False without a session: the next one brings them."""
        if self._is_ready:
            self.send({"type": "hosts", "text": lines, "prefix": prefix})
        return self._is_ready

    async def ping(self, deadline: float = 10) -> float:
        """Seconds that an answer of the agent took. Raises TimedOut, Conflict without a session."""
        self._check_session()
        number = self._last_ping = (self._last_ping + 1) & 0xFFFF_FFFF
        answer = self._pings[number] = self._loop.create_future()
        began = time.monotonic()
        self.send({"type": "ping", "id": number})
        try:
            async with asyncio.timeout(deadline):
                await answer
        except TimeoutError:
            raise TimedOut(f"the guest's agent did not answer within {deadline:g} s") from None
        finally:
            self._pings.pop(number, None)
        return time.monotonic() - began

    async def exec(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        tty: Mapping[str, Any] | None = None,
    ) -> Stream:
        """Runs a command in the guest; returns when it runs, or is known not to: see `Stream.wait`.

        `tty` is {"rows", "cols", "term"}: a terminal instead of pipes, both outputs as stdout.
        """
        stream = Stream(self, self._next_stream())
        terminal = None if tty is None else dict(tty)
        members = {"argv": list(argv), "env": dict(env or {}), "cwd": cwd, "tty": terminal}
        await self._open(stream, "exec", members)
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
        """Puts a file into the guest, whole or not at all; returns its path there.

        If `path` is a directory, the file becomes `name` in it. Raises NotFound, Refused, NoRoom,
        BadInput, CopperError.
        """
        members: dict[str, Any] = {"path": path, "name": name, "mode": mode}
        if mtime_ns is not None:
            members["mtime_ns"] = mtime_ns
        async with Stream(self, self._next_stream()) as stream:
            started = await self._open(stream, "push", members)
            if isinstance(source, bytes):
                await stream.write(source)
            elif started is not None:
                async for data in source:
                    await stream.write(data)
            stream.eof()
            exit = await stream.wait()
        if exit.errno or started is None:
            raise error_of(exit, path)
        return started.path

    async def pull(self, path: str) -> PulledFile:
        """Opens a regular file in the guest: read it with `chunk`, then `close` it.

        Raises NotFound, Refused, BadInput, CopperError.
        """
        file = PulledFile(self, self._next_stream())
        file.take_opening(path, await self._open(file, "pull", {"path": path}))
        return file

    async def quiesce(self) -> None:
        """Writes nothing more into the guest's memory, for it is about to be frozen; 20 ms at most.

        What is sent meanwhile waits for `resume`.
        """
        await self._socket.quiesce()

    def resume(self) -> None:
        """After `quiesce`: sends what has waited, and goes on."""
        self._socket.resume()

    async def close(self) -> None:
        """Closes the channel; returns when the calls in flight have ended."""
        self._socket.close()
        self._lost("the guest's channel was closed")
        await self._calls.ended()

    # for streams

    def send(self, message: dict[str, Any]) -> None:
        """Sends or queues a message of the session. Raises BadInput if it is too long or not text."""
        try:
            self._socket.send(messages.pack(self._session, message))
        except ValueError as error:
            raise BadInput(f"{message['type']}: {error}") from None

    def send_data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Sends or queues data of a stream: at most 32,768 bytes."""
        flags = frames.END if end else 0
        frame = Frame(frames.DATA, self._session, data, stream, frames.STDIN, flags)
        self._socket.send(frames.encode(frame))

    async def room(self) -> None:
        """Waits until data may be sent without a long queue."""
        await self._socket.room()

    def forget(self, stream: int) -> None:
        """Nothing more goes to this stream."""
        self._streams.pop(stream, None)

    def _next_stream(self) -> int:
        self._check_session()
        self._last_stream = (self._last_stream + 1) & 0xFFFF_FFFF
        return self._last_stream

    async def _open(
        self, stream: Stream, type: str, members: dict[str, Any]
    ) -> messages.Started | None:
        self._streams[stream.number] = stream
        try:
            self.send({"type": type, "stream": stream.number, **members})
            return await stream.started()
        except BaseException:
            stream.close()
            raise

    def _check_session(self) -> None:
        if self.closed.is_set():
            raise CopperError("the guest's channel was closed")
        if not self._is_ready:
            raise Conflict("the guest has not taken its identity")

    # what the guest sends

    def _received(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            self._take_frame(frame)

    def _take_frame(self, frame: Frame) -> None:
        if frame.session != self._session or not self._session:
            self._take_foreign(frame)
        elif frame.kind == frames.DATA:
            stream = self._streams.get(frame.stream)
            if stream is not None:
                stream.take_data(frame.channel, frame.payload)
        elif (text := self._assembly.add(frame)) is not None:
            message = self._parse(text)
            if message is not None:
                self._take(message)

    def _parse(self, text: bytes) -> messages.FromGuest | None:
        try:
            return messages.parse(text)
        except ValueError:
            self._dropped += 1
            return None

    def _take_foreign(self, frame: Frame) -> None:
        """A frame of no session: an agent's hello. Of another one: from before the fork, dropped."""
        if frame.session or frame.kind != frames.MESSAGE or frame.flags & frames.MORE:
            self._dropped += 1
            return
        hello = self._parse(frame.payload)
        if not isinstance(hello, messages.Hello):
            self._dropped += hello is not None
            return
        self._hello = hello
        self._hello_came.set()
        if self._ready is not None and not self._ready.done():
            # said before it read the session, or by an agent that began after: twice has one effect
            if self._socket.queued < RESENT_BELOW:
                self._socket.send(self._beginning)
            return
        if self._ready is not None:
            self._leave(CopperError("the guest's agent was started again"))
            self._ready = None
        if self._on_hello is not None:
            self._on_hello(hello)

    def _take(self, message: messages.FromGuest) -> None:
        match message:
            case messages.Ready() | messages.Failed():
                self._take_beginning(message)
            case messages.Working():
                self._take_working(message)
            case messages.Call():
                self._take_call(message)
            case messages.Cancel():
                self._calls.cancel(message.call)
            case messages.Pong():
                answer = self._pings.get(message.id)
                if answer is not None and not answer.done():
                    answer.set_result(None)
            case messages.Started() | messages.Credit() | messages.Exit():
                self._take_of_stream(message)

    def _take_beginning(self, message: messages.Ready | messages.Failed) -> None:
        if message.session != self._session or self._ready is None or self._ready.done():
            return
        if isinstance(message, messages.Ready):
            self._is_ready = True
            self._ready.set_result(message)
        else:
            why = f"{message.step}: {message.message}"
            if not message.message.startswith("hook "):  # which says all itself
                why = f"the guest could not take its identity: {why}"
            self._fail_beginning(CopperError(why))

    def _take_working(self, message: messages.Working) -> None:
        trace.mark("hooks")
        ends, self._deadline = self._deadline, None
        if ends is not None and not ends.expired() and (at := ends.when()) is not None:
            ends.reschedule(at + min(message.ms / 1000, messages.WORKING_MOST_S))

    def _take_of_stream(self, message: messages.Started | messages.Credit | messages.Exit) -> None:
        stream = self._streams.get(message.stream)
        if stream is None:
            return
        match message:
            case messages.Started():
                stream.take_started(message)
            case messages.Credit():
                stream.take_credit(message.channel, message.bytes)
            case messages.Exit():
                self.forget(message.stream)
                stream.take_exit(message)

    def _take_call(self, message: messages.Call) -> None:
        if self._socket.queued > UNSENT_MOST or not self._calls.take(message):
            self._dropped += 1

    # endings

    def _leave(self, error: CopperError) -> None:
        """Ends all that belongs to the session."""
        self._is_ready = False
        self._fail_beginning(error)
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(error)
        self._calls.leave()
        for answer in self._pings.values():
            if not answer.done():
                answer.set_exception(error)

    def _fail_beginning(self, error: CopperError) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # whoever waited may have been cancelled

    def _lost(self, why: str) -> None:
        if self.closed.is_set():
            return
        self._leave(CopperError(why))
        self.closed.set()
        self._hello_came.set()


def _other_than(former: int) -> int:
    """A session number: random, since nobody knows all that this memory's ancestors have seen."""
    while True:
        number = secrets.randbits(32)
        if number not in (0, former):
            return number
