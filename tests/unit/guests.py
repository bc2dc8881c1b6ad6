"""A guest's real agent as a process of this machine, with the test as its host: no VM is needed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from copper.host.guest_calls import OnCall
from copper.host.guest_port import SPOIL, GuestPort
from copper.wire import frames, messages
from copper.wire.frames import Frame, FrameReader
from tests.unit.rules import ROOT

DEADLINE = 120  # seconds, for anything that is waited for
TICKET = "0c4ba5a2-4b71-4c5c-9d67-4a4a2f2f5a11"


def net(vmid: int, prefix: int = 24) -> dict[str, Any]:
    """What the host says of a VM's place on the private network."""
    return {
        "device": "eth0",
        "mac": f"52:54:00:00:00:{vmid:02x}",
        "address": f"10.0.0.{vmid + 1}",
        "prefix": prefix,
        "address6": f"fd00:c::{vmid + 1:x}",
        "prefix6": 64,
        "gateway": "10.0.0.254",
        "gateway6": "fd00:c::fffe",
        "resolver": "10.0.0.254",
        "search": "clusters",
    }


IDENTITY = {
    "vmid": 3,
    "name": "web-3",
    "net": net(3),
    "machine_id": f"{3:032x}",
    "generation": 1,
    "parent": 0,
    "cluster": "web",
    "ticket": TICKET,
    "vmids": [1, 2, 3],
}
MASTER = {
    **IDENTITY,
    "vmid": 0,
    "name": "web-0",
    "net": net(0),
    "machine_id": f"{0xF:032x}",
    "generation": 0,
}


@cache
def built(*, sanitized: bool = True) -> Path:
    """The folder with the guest's program, built if it is not up to date."""
    folder = ROOT / "build" / ("guest-sanitized" if sanitized else "guest")
    options = ["--sanitize"] if sanitized else []
    subprocess.run([ROOT / "guest/build", *options, folder], check=True)
    return folder


async def no_calls(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
    raise AssertionError(f"nobody should ask for {verb}")


@dataclass(frozen=True)
class Ran:
    """What a program left: its exit status, standard output and error."""

    status: int
    out: str
    err: str


@dataclass
class Guest:
    """An agent that connects to `listener`, and again whenever it loses the connection."""

    folder: Path
    process: asyncio.subprocess.Process
    listener: socket.socket
    accepted: list[socket.socket] = field(default_factory=list)
    ports: list[GuestPort] = field(default_factory=list)

    @property
    def socket_path(self) -> Path:
        return self.folder / "agent.sock"

    async def connection(self) -> socket.socket:
        """The host end of the agent's next connection."""
        if self.accepted:
            return self.accepted.pop()
        async with asyncio.timeout(DEADLINE):
            sock, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        sock.setblocking(False)
        return sock

    async def port(self, on_call: OnCall = no_calls) -> GuestPort:
        """A host's end of the agent's next connection, without a session yet."""
        port = GuestPort(await self.connection(), on_call=on_call)
        self.ports.append(port)
        return port

    async def session(
        self, identity: dict[str, Any] = IDENTITY, on_call: OnCall = no_calls
    ) -> GuestPort:
        """The same, with a session."""
        port = await self.port(on_call)
        await port.begin(identity, "boot", deadline=DEADLINE)
        return port

    async def program(self, *argv: str, name: str = "gc") -> asyncio.subprocess.Process:
        """Starts the guest's program by one of its names, as a user of this agent."""
        return await asyncio.create_subprocess_exec(
            self.folder / name,
            *argv,
            env={"GRIDCENTRIC_SOCKET": str(self.socket_path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    async def gc(self, *argv: str) -> Ran:
        """Runs gc to its end."""
        return await ended(await self.program(*argv))

    def memory_kib(self) -> int:
        """The most memory that the agent ever had resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1])


async def ended(process: asyncio.subprocess.Process) -> Ran:
    """Waits for a program."""
    async with asyncio.timeout(DEADLINE):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


@contextlib.asynccontextmanager
async def running_guest(
    *, sanitized: bool = True, within: Sequence[str] = (), left_alone: str = ""
) -> AsyncIterator[Guest]:
    """An agent, proven at the end to live, to stop when told, and to have leaked nothing.

    It changes nothing of this machine; or `within`, a command that runs it in namespaces, it takes
    all steps but those in `left_alone`.
    """
    folder = Path(tempfile.mkdtemp(prefix="copper-guest-"))
    folder.chmod(0o755)  # programs of other users come here too
    shutil.copy(built(sanitized=sanitized) / "gridcentric", folder / "gridcentric")
    for name in ("gridcentric-agent", "gc"):
        (folder / name).symlink_to("gridcentric")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "port"))
        listener.listen()
        listener.setblocking(False)
        options = {"port": "port", "socket": "agent.sock", "run-dir": "run", "log-dir": "log"}
        options["conf-dir"] = "etc"
        process = await asyncio.create_subprocess_exec(
            *within,
            folder / "gridcentric-agent",
            f"--no-identity={left_alone}" if left_alone else "--no-identity",
            *(word for key, name in options.items() for word in (f"--{key}", folder / name)),
            stderr=subprocess.PIPE,
        )
        guest = Guest(folder, process, listener)
        try:
            guest.accepted = [await guest.connection()]  # its socket is there before it connects
            yield guest
        finally:
            for sock in guest.accepted:
                sock.close()
            for port in guest.ports:
                await port.close()
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            _, err = await process.communicate()
            shutil.rmtree(folder)
    assert process.returncode == 0, err.decode()


class RawHost:
    """A host that says what a test wants, byte by byte, and sees every frame that comes back."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._reader, self._assembly = FrameReader(), messages.Assembly()
        self._frames: list[Frame] = []

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(DEADLINE):
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def tell(self, number: int, **message: Any) -> None:
        """Sends a message in the session of this number."""
        await self.send(messages.pack(number, message))

    async def begin(self, session: int, event: str = "boot", **more: Any) -> None:
        """Begins a session and waits until the guest is ready."""
        message = {"type": "session", "session": session, "identity": IDENTITY, "event": event}
        await self.send(SPOIL)
        await self.tell(session, **message, **more)
        while True:
            _, told = await self.message()
            if isinstance(told, messages.Ready) and told.session == session:
                return

    async def frame(self) -> Frame:
        """The next frame of any session. EOFError when the guest is gone."""
        while not self._frames:
            async with asyncio.timeout(DEADLINE):
                data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
            if not data:
                raise EOFError
            self._frames = self._reader.feed(data)
        return self._frames.pop(0)

    async def message(self) -> tuple[int, messages.FromGuest]:
        """The next message and its session; data is skipped."""
        while True:
            frame = await self.frame()
            text = self._assembly.add(frame) if frame.kind == frames.MESSAGE else None
            message = messages.parse(text) if text is not None else None
            if message is not None:
                return frame.session, message


def other_user() -> dict[str, Any]:
    """Options of a subprocess that make it somebody without permissions, where this is root."""
    return {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
