"""The example of a proxy forks a backend for every two connections; here a clone is a process on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.guests import DEADLINE
from tests.unit.rules import ROOT

PROXY = ROOT / "examples/proxy/proxy.js"
ASK = ROOT / "examples/proxy/ask.js"
STUB = Path(__file__).with_name("proxy_stub.js")


@contextlib.asynccontextmanager
async def node(*argv: str | Path, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Node.js program; it is ended at the end."""
    process = await asyncio.create_subprocess_exec(
        "node",
        *argv,
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def lines(process: asyncio.subprocess.Process, count: int) -> list[str]:
    """The next lines that a program prints."""
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        return [(await process.stdout.readline()).decode().rstrip() for _ in range(count)]


@pytest.fixture
def network() -> str:
    """The first three numbers of addresses on loopback that no other test has."""
    pid = os.getpid()
    return f"127.{64 + pid % 64}.{pid // 64 % 256}"


@contextlib.asynccontextmanager
async def asked(network: str, count: int) -> AsyncIterator[list[str]]:
    """Who answers so many connections that stay open, in the order in which they were made."""
    async with node(ASK, f"{network}.1", str(count)) as client:
        yield [line.partition(": ")[2] for line in await lines(client, count)]


@pytest.fixture
async def proxy(network: str) -> AsyncIterator[asyncio.subprocess.Process]:
    async with node("-r", STUB, PROXY, STUB_NETWORK=network) as process:
        await until_listening(f"{network}.1", True)
        yield process


async def listening(address: str) -> bool:
    """Whether somebody listens on the backends' port."""
    with contextlib.suppress(ConnectionRefusedError):
        _, writer = await asyncio.open_connection(address, 8001)
        writer.close()
        return True
    return False


async def until_listening(address: str, wanted: bool) -> None:
    """Waits until somebody does, or nobody any more."""
    async with asyncio.timeout(DEADLINE):
        while True:
            if await listening(address) == wanted:
                return
            await asyncio.sleep(0.02)


async def test_every_two_connections_have_a_backend_and_new_ones_the_newest(
    proxy: asyncio.subprocess.Process, network: str
) -> None:
    async with asked(network, 5) as first:
        assert first == [f"backend {vmid}" for vmid in (1, 1, 2, 2, 3)]
        told = await lines(proxy, 3)
        assert told == [f"backend {vmid} at {network}.{vmid + 1}" for vmid in (1, 2, 3)]
        async with asked(network, 2) as second:
            assert second == ["backend 3", "backend 4"]
            assert await lines(proxy, 1) == [f"backend 4 at {network}.5"]
        # 4 is idle now, but the newest
    assert sorted(await lines(proxy, 3)) == [f"backend {vmid} ends" for vmid in (1, 2, 3)]
    async with asked(network, 3) as third:
        assert third == ["backend 4", "backend 4", "backend 5"]


async def test_connections_that_come_at_once_are_two_to_a_backend(
    proxy: asyncio.subprocess.Process, network: str
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = [stack.enter_async_context(asked(network, 1)) for _ in range(6)]
        answers = [answer for [answer] in await asyncio.gather(*clients)]
    assert sorted(answers) == [f"backend {vmid}" for vmid in (1, 1, 2, 2, 3, 3)]


async def test_a_backend_that_died_is_replaced(
    proxy: asyncio.subprocess.Process, network: str
) -> None:
    async with asked(network, 1) as before:
        assert before == ["backend 1"]
    assert await lines(proxy, 1) == [f"backend 1 at {network}.2"]
    [died] = Path(f"/proc/{proxy.pid}/task/{proxy.pid}/children").read_text().split()
    os.kill(int(died), signal.SIGKILL)
    await until_listening(f"{network}.2", False)
    async with node(ASK, f"{network}.1", "1") as unlucky:
        assert await lines(proxy, 1) == ["backend 1 ends"]
        assert await asyncio.wait_for(unlucky.wait(), DEADLINE) == 1
    async with asked(network, 2) as after:
        assert after == ["backend 2", "backend 2"]
