"""The host's end of the channel against guests that nobody should trust."""

from __future__ import annotations

import asyncio
import errno as errnos
import itertools
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from copper.host.guest_calls import CALLS_MOST
from copper.host.guest_port import GuestPort
from copper.host.streams import CREDIT_IN
from copper.model.errors import BadInput, Conflict, CopperError, TimedOut
from copper.wire import frames, messages
from copper.wire.frames import Frame, FrameReader
from tests.unit.guests import DEADLINE, IDENTITY


class FakeGuest:
    """A guest that says what a test wants, and sees every message of its host."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.session = 0
        self.came: list[Frame] = []
        self._reader = FrameReader()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(DEADLINE):
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def say(self, **message: Any) -> None:
        await self.send(messages.pack(self.session, message))

    async def frame(self) -> Frame:
        while not self.came:
            async with asyncio.timeout(DEADLINE):
                data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
            assert data
            self.came = self._reader.feed(data)
        return self.came.pop(0)

    async def hear(self) -> dict[str, Any]:
        """The host's next message."""
        frame = await self.frame()
        message: dict[str, Any] = json.loads(frame.payload)
        if message["type"] == "session":
            self.session = message["session"]
        return message

    async def be_ready(self) -> dict[str, Any]:
        while (message := await self.hear())["type"] != "session":
            pass
        await self.say(type="ready", session=self.session, agent="x", uptime_ms=1, load=0)
        return message


@pytest.fixture
async def ends() -> AsyncIterator[tuple[socket.socket, FakeGuest]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, FakeGuest(theirs)


async def begun(port: GuestPort, guest: FakeGuest, event: str = "boot") -> dict[str, Any]:
    ready = asyncio.create_task(port.begin(IDENTITY, event, deadline=DEADLINE))
    message = await guest.be_ready()
    await ready
    return message


async def settled(port: GuestPort, guest: FakeGuest) -> None:
    """Returns when the host has read all that the guest sent."""
    answer = asyncio.create_task(port.ping(DEADLINE))
    while (message := await guest.hear())["type"] != "ping":
        pass
    await guest.say(type="pong", id=message["id"])
    await answer


Ends = tuple[socket.socket, FakeGuest]


async def test_a_session_says_all_that_a_clone_needs(ends: Ends) -> None:
    port, guest = GuestPort(ends[0]), ends[1]
    ready = asyncio.create_task(port.begin(IDENTITY, "clone", 7, deadline=DEADLINE))
    message = await guest.be_ready()
    assert (await ready).session == message["session"] == port.session
    assert (message["identity"], message["event"], message["call"]) == (IDENTITY, "clone", 7)
    assert len(message["seed"]) == 88
    assert message["realtime_ns"] > 1_700_000_000 * 10**9
    again = await begun(port, guest)
    assert again["session"] != message["session"]
    assert again["seed"] != message["seed"]
    await port.close()


async def test_what_the_guest_says_of_other_sessions_is_not_believed(ends: Ends) -> None:
    port, guest = GuestPort(ends[0]), ends[1]
    beginning = asyncio.create_task(port.begin(IDENTITY, "boot", deadline=DEADLINE))
    await guest.hear()
    ready = {"type": "ready", "agent": "x", "uptime_ms": 1, "load": 0}
    await guest.send(messages.pack(guest.session ^ 1, {**ready, "session": guest.session}))
    await guest.send(messages.pack(guest.session, {**ready, "session": guest.session ^ 1}))
    await guest.send(messages.pack(guest.session, {**ready, "session": "x"}))
    failed = {"type": "failed", "session": guest.session, "step": "clock", "message": "no"}
    await guest.send(messages.pack(guest.session, failed))
    with pytest.raises(CopperError, match="clock: no"):
        await beginning
    assert port.dropped == 2
    with pytest.raises(Conflict):
        await port.ping()
    await port.close()


async def test_a_guest_that_is_silent_is_given_up(ends: Ends) -> None:
    port = GuestPort(ends[0])
    with pytest.raises(TimedOut, match=r"within 0\.01 s"):
        await port.begin(IDENTITY, "boot", deadline=0.01)
    with pytest.raises(TimedOut):
        await port.wait_hello(0.01)
    with pytest.raises(Conflict):
        await port.exec(["true"])
    await port.close()


async def test_a_guest_whose_hooks_run_gets_the_time_that_it_says_once(ends: Ends) -> None:
    port, guest = GuestPort(ends[0]), ends[1]
    beginning = asyncio.create_task(port.begin(IDENTITY, "clone", deadline=1))
    await guest.hear()
    await guest.say(type="working", session=guest.session, ms=60_000)
    await asyncio.sleep(1.2)
    assert not beginning.done()
    await guest.say(type="ready", session=guest.session, agent="x", uptime_ms=1, load=0)
    await beginning
    await guest.say(type="working", session=guest.session, ms=60_000)  # too late to matter
    await settled(port, guest)
    beginning = asyncio.create_task(port.begin(IDENTITY, "clone", deadline=1))
    await guest.hear()
    for ms in (100, 10**18):
        await guest.say(type="working", session=guest.session, ms=ms)
    with pytest.raises(TimedOut, match=r"within 1 s"):
        await beginning
    await port.close()


async def test_all_who_wait_are_told_when_the_guest_is_gone(ends: Ends) -> None:
    async def on_call(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        called.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody answers this")

    called = asyncio.Event()
    port, guest = GuestPort(ends[0], on_call=on_call), ends[1]
    await begun(port, guest)
    await guest.say(type="call", call=1, verb="clone", args={})
    waiting = [asyncio.create_task(port.exec(["true"])), asyncio.create_task(port.ping(DEADLINE))]
    await called.wait()
    guest.sock.close()
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, CopperError)
        assert "the guest's channel" in str(result)
    assert port.closed.is_set()
    with pytest.raises(CopperError):
        await port.begin(IDENTITY, "boot", deadline=DEADLINE)
    with pytest.raises(CopperError):
        await port.wait_hello(DEADLINE)
    await port.close()


async def test_a_hello_in_a_session_is_an_agent_that_began_again(ends: Ends) -> None:
    came: asyncio.Queue[messages.Hello] = asyncio.Queue()
    port, guest = GuestPort(ends[0], on_hello=came.put_nowait), ends[1]
    await begun(port, guest)
    waiting = asyncio.create_task(port.ping(DEADLINE))
    await guest.hear()
    await guest.send(messages.pack(0, {"type": "hello", "agent": "y", "boot_id": "z"}))
    with pytest.raises(CopperError, match="started again"):
        await waiting
    assert (await came.get()).agent == "y"
    await begun(port, guest)
    await port.close()


async def test_a_hello_before_ready_is_answered_with_the_session(ends: Ends) -> None:
    port, guest = GuestPort(ends[0]), ends[1]
    beginning = asyncio.create_task(port.begin(IDENTITY, "boot", deadline=DEADLINE))
    first = await guest.hear()
    await guest.send(messages.pack(0, {"type": "hello", "agent": "y", "boot_id": "z"}))
    assert await guest.be_ready() == first
    await beginning
    await port.close()


async def test_a_flood_of_calls_is_bounded_and_answered(ends: Ends) -> None:
    running = most = 0
    go = asyncio.Event()

    async def on_call(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1
        return {}

    port, guest = GuestPort(ends[0], on_call=on_call), ends[1]
    await begun(port, guest)
    for call in range(1, 1001):
        await guest.say(type="call", call=call, verb="clone", args={})
    refused = [await guest.hear() for _ in range(1000 - CALLS_MOST)]
    assert {reply["errno"] for reply in refused} == {errnos.EBUSY}
    go.set()
    served = [await guest.hear() for _ in range(CALLS_MOST)]
    assert {reply["errno"] for reply in served} == {0}
    assert len({reply["call"] for reply in refused + served}) == 1000
    assert most == CALLS_MOST
    await port.close()
    assert running == 0


async def test_a_guest_that_reads_no_answers_does_not_fill_the_host(ends: Ends) -> None:
    async def on_call(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        return {"x": "y" * 100_000}

    port, guest = GuestPort(ends[0], on_call=on_call), ends[1]
    await begun(port, guest)
    for call in itertools.count():
        await guest.say(type="call", call=call, verb="list", args={})
        assert port._socket.queued < 2_000_000
        if port.dropped:
            break
    await port.close()


async def test_a_result_that_no_message_holds_is_a_failure(ends: Ends) -> None:
    async def on_call(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        return {"x": "y" * 300_000}

    port, guest = GuestPort(ends[0], on_call=on_call), ends[1]
    await begun(port, guest)
    await guest.say(type="call", call=1, verb="list", args={})
    assert (await guest.hear())["errno"] == errnos.EIO
    await port.close()


async def test_an_answer_never_goes_to_another_session(ends: Ends) -> None:
    answers: list[asyncio.Future[dict[str, Any]]] = []

    async def on_call(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        answers.append(asyncio.get_running_loop().create_future())
        try:
            return await answers[-1]
        except asyncio.CancelledError:
            return {"vmid": 666}  # one that does not take no for an answer

    port, guest = GuestPort(ends[0], on_call=on_call), ends[1]
    await begun(port, guest)
    await guest.say(type="call", call=1, verb="clone", args={})
    await settled(port, guest)
    await begun(port, guest, "clone")
    await guest.say(type="call", call=1, verb="clone", args={})
    await settled(port, guest)
    answers[1].set_result({"vmid": 0})
    reply = await guest.hear()
    assert (reply["call"], reply["result"]) == (1, {"vmid": 0})
    await port.close()


async def test_more_data_than_there_is_credit_for_ends_that_stream_only(ends: Ends) -> None:
    port, guest = GuestPort(ends[0]), ends[1]
    await begun(port, guest)
    opening = asyncio.create_task(port.exec(["yes"]))
    number = (await guest.hear())["stream"]
    await guest.say(type="started", stream=number, pid=9)
    stream = await opening
    piece = frames.encode(Frame(frames.DATA, guest.session, b"x" * 32768, number, 1))
    for _ in range(CREDIT_IN // 32768 + 1):
        await guest.send(piece)
    with pytest.raises(CopperError, match="credit"):
        await stream.wait()
    assert (await guest.hear())["type"] == "close"
    await settled(port, guest)
    await port.close()


async def test_single_bytes_cost_no_more_than_what_they_hold(ends: Ends) -> None:
    port, guest = GuestPort(ends[0]), ends[1]
    await begun(port, guest)
    opening = asyncio.create_task(port.exec(["yes"]))
    number = (await guest.hear())["stream"]
    await guest.say(type="started", stream=number)
    stream = await opening
    both = b"".join(
        frames.encode(Frame(frames.DATA, guest.session, byte, number, channel))
        for channel, byte in ((1, b"o"), (2, b"e"))
    )
    await guest.send(both * 20_000)
    await guest.say(type="exit", stream=number, code=0)
    assert (await stream.wait()).status == 0
    pieces = [piece async for piece in stream]
    assert len(pieces) < 1000
    assert b"".join(data for channel, data in pieces if channel == 1) == b"o" * 20_000
    assert b"".join(data for channel, data in pieces if channel == 2) == b"e" * 20_000
    await port.close()


@pytest.mark.parametrize("garbage", [b"\1" * 65536, bytes(65536), b"\2\1\0" * 20000])
async def test_garbage_from_a_guest_changes_nothing(ends: Ends, garbage: bytes) -> None:
    port, guest = GuestPort(ends[0]), ends[1]
    await begun(port, guest)
    for _ in range(100):
        await guest.send(garbage)
    await guest.send(b"\0")
    await settled(port, guest)
    await port.close()


async def test_nothing_is_written_while_a_guest_is_frozen(ends: Ends) -> None:
    port, guest = GuestPort(ends[0]), ends[1]
    await begun(port, guest)
    port.send({"type": "ping", "id": 1})
    before = asyncio.create_task(guest.hear())
    await port.quiesce()
    assert (await before)["id"] == 1
    port.send({"type": "ping", "id": 2})
    with pytest.raises(BlockingIOError):
        guest.sock.recv(1)
    port.resume()
    assert (await guest.hear())["id"] == 2
    await port.close()


async def test_a_guest_that_does_not_read_is_not_waited_for(ends: Ends) -> None:
    port, guest = GuestPort(ends[0]), ends[1]
    await begun(port, guest)
    for number in range(1000):
        port.send({"type": "ping", "id": number, "pad": "x" * 1000})
    await port.quiesce()  # returns, though the guest has not read
    port.resume()
    assert [(await guest.hear())["id"] for _ in range(1000)] == list(range(1000))
    await port.close()


async def test_verbs_are_refused_by_a_host_that_has_none(ends: Ends) -> None:
    port, guest = GuestPort(ends[0]), ends[1]
    await begun(port, guest)
    await guest.say(type="call", call=1, verb="clone", args={})
    assert (await guest.hear())["errno"] == BadInput.errno
    await port.close()
