"""What a program does while a call of its waits: other threads, event loops, signals, giving up."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from copper.host.guest_port import GuestPort
from tests.unit.bindings import BINDINGS, Driver, agent, running_driver
from tests.unit.guests import DEADLINE, IDENTITY, TICKET, Guest

WAIT_S = 0.5  # that the host takes; a driver looks 100 times meanwhile
BEATS = 20
SLOWEST = 128  # times as long, on a machine that has no time for it
TICKET_LINE = "request_ticket 1 1 1 60000"


@pytest.fixture
async def guest() -> AsyncIterator[Guest]:
    async with agent() as guest:
        yield guest


class SlowHost:
    """Answers when it is told to; knows who gave up."""

    def __init__(self) -> None:
        self.asked, self.go, self.given_up = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        self.asked.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        return {"vmid": 0, "ticket": TICKET, "tickets": []}


async def begun(guest: Guest) -> tuple[SlowHost, GuestPort]:
    host = SlowHost()
    return host, await guest.session(IDENTITY, host)


@pytest.mark.parametrize("binding", BINDINGS)
async def test_the_program_goes_on_beside_a_call_that_waits(guest: Guest, binding: str) -> None:
    host, _ = await begun(guest)
    beats, times = 0, 1
    async with running_driver(binding, guest.socket_path) as driver:
        while beats < BEATS and times <= SLOWEST:
            host.asked.clear()
            host.go.clear()
            await driver.send(f"beside clone {TICKET}")
            await host.asked.wait()
            await asyncio.sleep(WAIT_S * times)
            host.go.set()
            answer = await driver.answer()
            assert answer["value"] == 0
            beats, times = answer["beats"], 4 * times
    assert beats >= BEATS


@pytest.mark.parametrize("binding", BINDINGS)
async def test_others_are_answered_while_one_waits(guest: Guest, binding: str) -> None:
    host, _ = await begun(guest)
    async with (
        running_driver(binding, guest.socket_path) as waiting,
        running_driver(binding, guest.socket_path) as other,
    ):
        await waiting.send(f"clone {TICKET}")
        await host.asked.wait()
        assert await other.value("ismaster") is False
        host.go.set()
        assert (await waiting.answer())["value"] == 0


@pytest.mark.parametrize(
    ("binding", "answer"),
    [("c", {"value": "cancelled"}), ("aio", {"value": "cancelled"}), ("java", {"errno": 4})],
)
async def test_a_call_that_is_given_up_is_cancelled(
    guest: Guest, binding: str, answer: dict[str, Any]
) -> None:
    host, _ = await begun(guest)
    async with running_driver(binding, guest.socket_path) as driver:
        got = await driver.ask(f"cancel {TICKET_LINE}")
        assert answer.items() <= got.items()
        async with asyncio.timeout(DEADLINE):
            await host.given_up.wait()
        assert await driver.value("vmid") == 3  # nothing of it is left behind


async def signalled(guest: Guest, driver: Driver, handler: str, line: str) -> SlowHost:
    """A call that waits, in a program that handles signals again and again until this test ends.

    One is not enough: it may come when the question was sent and the program does not wait yet.
    """
    host, _ = await begun(guest)
    await driver.value(f"on_signal {handler}")
    await driver.send(line)
    await host.asked.wait()

    def send() -> None:
        if not host.given_up.is_set() and not host.go.is_set():
            driver.process.send_signal(signal.SIGUSR1)
            asyncio.get_running_loop().call_later(0.05, send)

    send()
    return host


@pytest.mark.parametrize(
    ("binding", "handler", "line"),
    [
        ("c", "goes_on", TICKET_LINE),
        ("c", "goes_on", f"clone {TICKET}"),
        ("c", "interrupts", f"clone {TICKET}"),  # as fork(2)
        ("python", "goes_on", TICKET_LINE),
        ("aio", "goes_on", TICKET_LINE),
        ("node", "goes_on", TICKET_LINE),
    ],
)
async def test_a_signal_leaves_a_call_waiting(
    guest: Guest, binding: str, handler: str, line: str
) -> None:
    async with running_driver(binding, guest.socket_path) as driver:
        host = await signalled(guest, driver, handler, line)
        with pytest.raises(TimeoutError):
            await driver.answer(deadline=0.3)
        host.go.set()
        assert (await driver.answer())["value"] in (0, TICKET)
        assert not host.given_up.is_set()


@pytest.mark.parametrize(
    "line", [TICKET_LINE, f"sync {TICKET} 60000", "sync", f"join_wait {TICKET}"]
)
async def test_a_signal_ends_a_wait_in_c_as_waitpid(guest: Guest, line: str) -> None:
    async with running_driver("c", guest.socket_path) as driver:
        host = await signalled(guest, driver, "interrupts", line)
        assert (await driver.answer())["errno"] == 4
        async with asyncio.timeout(DEADLINE):
            await host.given_up.wait()


async def test_what_a_handler_raises_ends_a_wait_in_python(guest: Guest) -> None:
    async with running_driver("python", guest.socket_path) as driver:
        host = await signalled(guest, driver, "raises", TICKET_LINE)
        assert (await driver.answer())["value"] == "given up"
        async with asyncio.timeout(DEADLINE):
            await host.given_up.wait()


@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_call_takes_less_than_5_ms(guest: Guest, binding: str) -> None:
    """Nothing but the agent answers `ismaster`: the rest is the binding's."""
    await guest.session()
    async with running_driver(binding, guest.socket_path) as driver:
        await driver.value("timed 50 ismaster")  # a JVM is slow at first
        async with asyncio.timeout(
            DEADLINE
        ):  # whatever else the machine does: now and then it does nothing
            for verb in ("ismaster", "vmid"):
                while await driver.value(f"timed 5 {verb}") >= 5:
                    pass
