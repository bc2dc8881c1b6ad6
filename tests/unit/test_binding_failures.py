"""Bindings without an agent, without permission, and with an agent that breaks off or talks nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.bindings import BINDINGS, agent, running_driver
from tests.unit.guests import TICKET, other_user

LINES = ("vmid", "ismaster", "list", f"clone {TICKET}", "request_ticket 1 1 1 1", "join 0")


@pytest.fixture
def socket_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="copper-fake-agent-") as folder:
        yield Path(folder) / "agent.sock"


@contextlib.asynccontextmanager
async def answering(path: Path, *answers: bytes) -> AsyncIterator[None]:
    """An agent that says these, one a connection, again and again, and closes after an empty one."""
    number = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        answer, number = answers[number % len(answers)], number + 1
        with contextlib.suppress(ConnectionError):
            await reader.readline()
            writer.write(answer)
            if answer.endswith(b"\n"):
                await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    (path.parent / "identity").write_text(json.dumps({"vmid": 3}))
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("binding", BINDINGS)
async def test_without_an_agent(socket_path: Path, binding: str) -> None:
    async with running_driver(binding, socket_path) as driver:
        for line in LINES:
            errno, message = await driver.failure(line)
            assert errno == 111, line
            assert "not running" in message
            assert str(socket_path) in message


@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_path_that_no_socket_can_have(binding: str) -> None:
    async with running_driver(binding, Path("/tmp") / ("x" * 120)) as driver:
        assert (await driver.failure("ismaster"))[0] == 111


@pytest.mark.parametrize("binding", BINDINGS)
async def test_with_an_agent_that_was_killed(socket_path: Path, binding: str) -> None:
    async with answering(socket_path, b""):
        pass
    if not socket_path.exists():  # asyncio of Python 3.13 removes it
        os.mknod(socket_path, 0o140600)
    async with running_driver(binding, socket_path) as driver:
        for line in LINES[1:]:
            assert (await driver.failure(line))[0] == 111, line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_without_permission(binding: str) -> None:
    async with agent() as guest:
        await guest.session()
        async with running_driver(binding, guest.socket_path, **other_user()) as driver:
            for line in LINES:
                errno, message = await driver.failure(line)
                assert errno == 13, line
                assert "no permission" in message
                assert "chmod og+rw" in message
            guest.socket_path.chmod(0o666)  # as an administrator opens it to all
            assert await driver.value("vmid") == 3
            assert await driver.value("ismaster") is False


@pytest.mark.parametrize("binding", BINDINGS)
async def test_an_agent_that_goes_away_before_it_answers(socket_path: Path, binding: str) -> None:
    async with answering(socket_path, b"", b'{"errno": 0, "resu'):
        async with running_driver(binding, socket_path) as driver:
            for line in LINES[1:] * 2:
                errno, message = await driver.failure(line)
                assert errno == 111, line
                assert "went away" in message


@pytest.mark.parametrize("binding", BINDINGS)
async def test_an_agent_that_does_not_know_who_this_is(binding: str) -> None:
    async with agent() as guest:
        await guest.connection()
        async with running_driver(binding, guest.socket_path) as driver:
            assert (await driver.failure("vmid"))[0] == 5
            assert (await driver.failure(f"clone {TICKET}"))[0] == 5


NONSENSE = [
    b"\n",
    b"[]\n",
    b"null\n",
    b"{}\n",
    b"7\n",
    b'{"errno": "none"}\n',
    b'{"errno": 0, "result": 7}\n',
    b'{"errno": 0, "result": {"vms": {}}}\n',
    b'{"errno": 0, "result": {"vms": [7]}}\n',
    b'{"errno": 0, "result": {"vms": [\n',
    b"\xff\xfe{[[[[\n",
    b"[" * 100_000 + b"\n",
]


@pytest.mark.parametrize("binding", BINDINGS)
async def test_nonsense_is_an_error(socket_path: Path, binding: str) -> None:
    for answer in NONSENSE:
        async with answering(socket_path, answer):
            async with running_driver(binding, socket_path) as driver:
                assert (await driver.failure("list"))[0] == 5, answer
        socket_path.unlink(missing_ok=True)


@pytest.mark.parametrize("binding", BINDINGS)
async def test_text_arrives_however_it_is_written(socket_path: Path, binding: str) -> None:
    host = 'hôte\t"1"\\/ 虫😀'
    vm = {"vmid": 1, "address": "", "generation": 1, "parent": 0, "state": "dead", "host": host}
    answer = {
        "new": [{"er": 1}, "}]"],
        "errno": 0,
        "result": {"more": [{"vms": [1]}], "vms": [vm]},
    }
    ways = [json.dumps(answer, ensure_ascii=ascii, indent=4) for ascii in (True, False)]
    lines = [way.replace("\n", " ").encode() + b"\n" for way in ways]
    async with answering(socket_path, *lines):
        async with running_driver(binding, socket_path) as driver:
            for _ in lines:
                assert await driver.value("list") == [vm]


def mutated(chance: random.Random, answer: bytes) -> bytes:
    """The answer with some bytes changed, left out or doubled; still a line."""
    data = bytearray(answer)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data))
        how = chance.randrange(3)
        if how == 0:
            data[at] = chance.choice(b'"\\{}[],:u0-9\x00\xff')
        elif how == 1:
            del data[at : at + chance.randint(1, 8)]
        else:
            data[at:at] = data[at : at + chance.randint(1, 8)]
        data = data or bytearray(b"x")
    return bytes(data.replace(b"\n", b"")) + b"\n"


ANSWERS: dict[str, dict[str, Any]] = {
    "list": {"vms": [{"vmid": 1, "address": "10.0.0.2", "generation": 1, "parent": 0}]},
    "stat": {"vms": [{"vmid": 1, "nominal": 1 << 40, "shared": 5, "own": 0}]},
    f"join_wait {TICKET}": {"clones": [{"vmid": 1, "status": -1, "file": "aGVsbG8="}] * 2},
    "my_ip": {"ip": "10.\\u00e9\\ud83d\\ude00"},
    "list_tickets": {"tickets": [{"id": TICKET, "status": "used", "cpus": 1, "vms": 1}]},
}
ANSWERS["list"]["vms"][0].update(state="running", host="h\\n1")
ANSWERS["list_tickets"]["tickets"][0]["mincpuspervm"] = 1


@pytest.mark.parametrize("binding", ["c", "java"])
async def test_a_reader_of_our_own_stands_damaged_answers(socket_path: Path, binding: str) -> None:
    """2,000 of them; the C library's is watched by sanitizers."""
    chance = random.Random(5)
    for line, result in ANSWERS.items():
        text = json.dumps({"errno": 0, "result": result}).replace("\\\\", "\\").encode()
        damaged = [mutated(chance, text) for _ in range(400)]
        async with answering(socket_path, text + b"\n", *damaged):
            async with running_driver(binding, socket_path) as driver:
                await driver.value(line)
                for answer in damaged:
                    await driver.send(line)
                    assert driver.process.stdout is not None
                    got = await asyncio.wait_for(driver.process.stdout.readline(), 60)
                    assert got.startswith(b"{"), answer
        socket_path.unlink(missing_ok=True)
