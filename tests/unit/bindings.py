"""The bindings of the guest API as processes: each runs a driver that takes the same lines, and answers in JSON."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.unit.guests import DEADLINE, Guest, running_guest
from tests.unit.rules import ROOT

BINDINGS = ("c", "python", "aio", "java", "node", "node-callbacks")


C_FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g"]
C_FLAGS += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def linked(folder: Path) -> list[str]:
    """Options that compile with the header, and link with the library in the folder."""
    header = f"-I{ROOT / 'guest/lib/include'}"
    return [header, f"-L{folder}", "-lgridcentric", "-Wl,-rpath,$ORIGIN"]


@cache
def staged() -> Path:
    """The bindings and their drivers, built, in a folder that every user may read."""
    folder = Path(tempfile.mkdtemp(prefix="copper-bindings-"))
    atexit.register(shutil.rmtree, folder)
    folder.chmod(0o755)
    guest = ROOT / "guest"
    subprocess.run([guest / "lib/build", "--sanitize", folder], check=True)
    subprocess.run([guest / "java/build", folder], check=True)
    compilers: list[list[str | Path]] = [
        ["cc", *C_FLAGS, guest / "lib/test/driver.c", "-o", folder / "driver", *linked(folder)],
        ["javac", "-cp", folder / "gridcentric.jar", "-d", folder, guest / "java/test/Driver.java"],
    ]
    for compiler in compilers:
        subprocess.run(compiler, check=True)
    hidden = shutil.ignore_patterns("__pycache__")
    shutil.copytree(guest / "python/gridcentric", folder / "gridcentric", ignore=hidden)
    shutil.copy(guest / "python/test/driver.py", folder)
    shutil.copytree(guest / "node", folder / "node_modules/gridcentric")
    shutil.copy(guest / "node/test/driver.js", folder)
    return folder


def python() -> str:
    """A Python that any user may run, where there is one."""
    return "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable


def argv_of(binding: str) -> list[str]:
    """The command that starts a binding's driver."""
    folder = staged()
    name, _, way = binding.partition("-")
    return {
        "c": [str(folder / "driver")],
        "python": [python(), str(folder / "driver.py")],
        "aio": [python(), str(folder / "driver.py"), "aio"],
        "java": [
            "java",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            f"{folder}/gridcentric.jar:{folder}",
            "Driver",
        ],
        "node": ["node", str(folder / "driver.js"), way],
    }[name]


@dataclass
class Driver:
    """A program that calls through one binding."""

    binding: str
    process: asyncio.subprocess.Process
    killed: bool = False

    def kill(self) -> None:
        """Ends a driver whose call never returns."""
        self.killed = True
        self.process.kill()

    async def send(self, line: str) -> None:
        """Says what to call; `answer` waits for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        await self.process.stdin.drain()

    async def answer(self, deadline: float = DEADLINE) -> dict[str, Any]:
        """What became of the call: its `value`, or `errno` and `message`."""
        assert self.process.stdout is not None
        async with asyncio.timeout(deadline):
            line = await self.process.stdout.readline()
        assert line, "the driver ended"
        found: dict[str, Any] = json.loads(line)
        return found

    async def ask(self, line: str) -> dict[str, Any]:
        await self.send(line)
        return await self.answer()

    async def value(self, line: str) -> Any:
        answer = await self.ask(line)
        assert "value" in answer, answer
        return answer["value"]

    async def failure(self, line: str) -> tuple[int, str]:
        """The errno and the message of a call that must fail."""
        answer = await self.ask(line)
        assert "errno" in answer, answer
        return answer["errno"], answer["message"]


@contextlib.asynccontextmanager
async def running_driver(binding: str, socket_path: Path, **options: Any) -> AsyncIterator[Driver]:
    """A driver, proven at the end to have leaked nothing (C) and to end when its input does."""
    process = await asyncio.create_subprocess_exec(
        *argv_of(binding),
        env={
            "GRIDCENTRIC_SOCKET": str(socket_path),
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        limit=1 << 22,
        **options,
    )
    driver = Driver(binding, process)
    try:
        yield driver
    except BaseException:
        driver.kill()
        raise
    finally:
        assert process.stdin is not None
        process.stdin.close()
        _, err = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert process.returncode == 0 or driver.killed, err.decode()


@contextlib.asynccontextmanager
async def agent() -> AsyncIterator[Guest]:
    """A guest's real agent, with its identity beside its socket, as in a guest."""
    async with running_guest() as guest:
        (guest.folder / "identity").symlink_to("run/identity")
        yield guest
