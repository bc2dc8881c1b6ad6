"""Sessions of a guest's real agent: who it becomes, and what of a former session it still believes."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from copper.model.errors import CopperError
from copper.wire import frames, messages
from copper.wire.frames import Frame
from tests.unit.guests import (
    DEADLINE,
    IDENTITY,
    MASTER,
    TICKET,
    Guest,
    Ran,
    RawHost,
    ended,
    running_guest,
)


@pytest.fixture
async def guest() -> AsyncIterator[Guest]:
    async with running_guest() as guest:
        yield guest


async def test_an_agent_without_a_session_says_hello(guest: Guest) -> None:
    port = await guest.port()
    hello = await port.wait_hello(DEADLINE)
    assert hello.agent
    assert len(hello.boot_id) == 36


async def test_a_session_writes_down_who_this_is(guest: Guest) -> None:
    port = await guest.port()
    ready = await port.begin(IDENTITY, "boot", deadline=DEADLINE)
    assert ready.uptime_ms > 0
    assert json.loads((guest.folder / "run/identity").read_text()) == IDENTITY
    assert (guest.folder / "run/generation").read_text() == "1\n"


async def test_every_session_is_another_vm(guest: Guest) -> None:
    port = await guest.port()
    for vmid in range(1, 20):
        await port.begin({**IDENTITY, "vmid": vmid}, "clone", deadline=DEADLINE)
        assert (await guest.gc("vmid")).out == f"{vmid}\n"


async def test_an_identity_that_is_none_is_refused_with_the_step(guest: Guest) -> None:
    port = await guest.port()
    with pytest.raises(CopperError, match="identity: Invalid argument"):
        await port.begin({"name": "nobody"}, "boot", deadline=DEADLINE)
    with pytest.raises(CopperError, match="files: Argument list too long"):
        await port.begin({**IDENTITY, "name": "x" * 70_000}, "boot", deadline=DEADLINE)
    await port.begin(IDENTITY, "boot", deadline=DEADLINE)


async def test_the_agent_finds_its_host_again(guest: Guest) -> None:
    first = await guest.session()
    await first.close()
    second = await guest.session(MASTER)
    await second.ping(DEADLINE)


async def test_frames_of_another_session_are_dropped(guest: Guest) -> None:
    host = RawHost(await guest.connection())
    await host.begin(100)
    fifo = guest.folder / "touched"
    for stale in (0, 99, 101):
        await host.tell(stale, type="exec", stream=1, argv=["touch", str(fifo)])
        await host.tell(stale, type="ping", id=stale)
    await host.tell(100, type="ping", id=7)
    assert await host.message() == (100, messages.Pong("pong", 7))
    assert not fifo.exists()
    host.sock.close()


async def test_a_session_told_twice_has_one_effect(guest: Guest) -> None:
    host = RawHost(await guest.connection())
    await host.begin(100)
    await host.tell(100, type="exec", stream=1, argv=["cat"])
    assert isinstance((await host.message())[1], messages.Started)
    await host.begin(100)
    await host.send(frames.encode(Frame(frames.DATA, 100, b"still here", 1)))
    while (frame := await host.frame()).kind != frames.DATA:
        pass
    assert frame.payload == b"still here"
    host.sock.close()


async def test_a_fork_in_the_middle_of_a_message_1000_times(guest: Guest) -> None:
    chance = random.Random(13)
    host = RawHost(await guest.connection())
    marker = guest.folder / "stale"
    for session in range(1, 1001):
        await host.begin(session, "clone")
        message = {"type": "exec", "stream": 1, "argv": ["touch", str(marker)], "env": {}}
        message["env"] = {"PAD": "x" * chance.choice([0, 100, 40_000])}  # of several frames too
        whole = messages.pack(session, message)
        await host.send(whole[: len(whole) - chance.choice([1, 2, chance.randint(1, len(whole))])])
    await host.begin(2000)
    await host.tell(2000, type="ping", id=1)
    assert await host.message() == (2000, messages.Pong("pong", 1))
    assert not marker.exists()
    host.sock.close()


async def test_an_answer_cut_off_by_a_fork_is_never_finished(guest: Guest) -> None:
    chance = random.Random(14)
    for session in range(1, 21):
        host = RawHost(await guest.connection())
        await host.begin(session)
        await host.tell(session, type="exec", stream=1, argv=["sh", "-c", "yes | head -c 400000"])
        await asyncio.get_running_loop().sock_recv(host.sock, chance.randint(1, 100_000))
        await host.begin(session + 1000, "clone")  # what is left of the former is read here
        await host.tell(session + 1000, type="ping", id=session)
        assert await host.message() == (session + 1000, messages.Pong("pong", session))
        host.sock.close()


class Calls:
    """An on_call that tells a test of every call, and waits for what to answer."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[tuple[str, dict[str, Any], int]] = asyncio.Queue()
        self.answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.cancelled = asyncio.Event()

    async def __call__(self, verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        self.came.put_nowait((verb, args, call))
        try:
            return await asyncio.shield(self.answer)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def next(self) -> tuple[str, dict[str, Any], int]:
        async with asyncio.timeout(DEADLINE):
            return await self.came.get()


async def test_a_clone_returns_with_its_own_number(guest: Guest) -> None:
    calls = Calls()
    port = await guest.session(MASTER, calls)
    program = await guest.program("clone", "2")
    verb, args, call = await calls.next()
    assert (verb, args) == ("clone", {"count": 2})
    await port.begin({**IDENTITY, "vmid": 2}, "clone", call, deadline=DEADLINE)
    ran = await ended(program)
    assert (ran.status, ran.out, ran.err) == (0, "2\n", "")


async def test_the_caller_of_a_clone_gets_zero(guest: Guest) -> None:
    calls = Calls()
    await guest.session(MASTER, calls)
    program = await guest.program("clone", TICKET)
    assert (await calls.next())[:2] == ("clone", {"ticket": TICKET})
    calls.answer.set_result({"vmid": 0, "vmids": [1]})
    assert await ended(program) == Ran(0, "0\n", "")


async def test_only_the_clone_that_was_named_returns(guest: Guest) -> None:
    calls = Calls()
    port = await guest.session(MASTER, calls)
    first = await guest.program("clone", "1")
    _, _, call = await calls.next()
    second = await guest.program("clone", "1")
    await calls.next()
    await port.begin(IDENTITY, "clone", call, deadline=DEADLINE)
    assert (await ended(first)).out == "3\n"
    cut_off = await ended(second)
    assert (cut_off.status, cut_off.out) == (5, "")
    assert "cut off" in cut_off.err


async def test_what_only_reads_is_asked_again_and_the_rest_fails(guest: Guest) -> None:
    calls = Calls()
    port = await guest.session(MASTER, calls)
    listing = await guest.program("list")
    assert (await calls.next())[0] == "list"
    ticket = await guest.program("rt", "4", "1", "1", "1000")
    assert (await calls.next())[0] == "request-ticket"
    await port.begin(IDENTITY, "clone", deadline=DEADLINE)
    assert (await ended(ticket)).status == 5
    assert (await calls.next())[0] == "list"
    calls.answer.set_result({"vms": []})
    assert (await ended(listing)).status == 0


@pytest.mark.parametrize(
    "words", ["sync", f"sync {TICKET} 70000", f"join {TICKET} 70000", "join 3"]
)
async def test_who_waits_goes_on_waiting_with_a_new_host_agent(guest: Guest, words: str) -> None:
    """A caller that was suspended, or whose host agent was started again, asks again by the same number."""
    calls = Calls()
    port = await guest.session(MASTER, calls)
    program = await guest.program(*words.split())
    first = await calls.next()
    for event in ("adopt", "resume"):
        await port.begin(MASTER, event, deadline=DEADLINE)
        assert await calls.next() == first
    if words == "join 3":
        program.kill()
        await ended(program)
        return
    calls.answer.set_result({"clones": [{"vmid": 1, "status": 0}]})
    assert (await ended(program)).status == 0


async def test_a_clones_last_file_is_sent_again_to_a_new_host_agent(guest: Guest) -> None:
    (guest.folder / "result").write_bytes(bytes(49_152))
    calls = Calls()
    port = await guest.session(MASTER, calls)
    for _ in range(8):  # what a former one held is free again
        program = await guest.program("join", "--file", str(guest.folder / "result"))
        first = await calls.next()
        await port.begin(MASTER, "adopt", deadline=DEADLINE)
        assert await calls.next() == first
        program.kill()
        await ended(program)


@pytest.mark.parametrize("words", ["sync", f"join {TICKET}", "join 3"])
async def test_a_clone_does_not_wait_for_what_its_parent_waits_for(
    guest: Guest, words: str
) -> None:
    calls = Calls()
    port = await guest.session(MASTER, calls)
    program = await guest.program(*words.split())
    await calls.next()
    await port.begin(IDENTITY, "clone", deadline=DEADLINE)
    assert (await ended(program)).status == 5
    assert calls.came.empty()


async def test_a_program_that_goes_away_cancels_its_call(guest: Guest) -> None:
    calls = Calls()
    await guest.session(MASTER, calls)
    program = await guest.program("clone", "2")
    await calls.next()
    program.kill()
    async with asyncio.timeout(DEADLINE):
        await calls.cancelled.wait()
    await ended(program)
    assert (await guest.gc("vmid")).out == "0\n"


async def test_a_call_of_the_parent_is_not_answered_in_the_clone(guest: Guest) -> None:
    host = RawHost(await guest.connection())
    await host.begin(1)
    program = await guest.program("list")
    while not isinstance((told := (await host.message())[1]), messages.Call):
        pass
    await host.begin(2, "clone")
    await host.tell(1, type="reply", call=told.call, errno=0, result={"vms": [{"vmid": 666}]})
    await host.tell(2, type="reply", call=told.call, errno=0, result={"vms": [{"vmid": 1}]})
    ran = await ended(program)
    assert ran.status == 0
    assert "666" not in ran.out
    host.sock.close()
