"""A guest's real agent in namespaces of its own, where it may change all that it changes in a VM.

Its card eth0 is one end of a cable; the test holds the other end, in a third namespace, as the private network.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from copper.host.guest_port import GuestPort
from copper.wire import messages
from tests.unit.guests import DEADLINE, IDENTITY, MASTER, Guest, RawHost, running_guest

CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
# the machine's random numbers, clock and disk are in no namespace
LEFT_ALONE = "seed,clock,disk"
# /etc and /var/lib of its own, and a cable to the namespace of the process that $1 names
BEGIN = """
set -e
peer=$1
shift
mkdir -p "$0/etc" "$0/lib/dbus"
printf '127.0.0.1 localhost\\n' > "$0/etc/hosts"
echo parent > "$0/lib/dbus/machine-id"
mount --bind "$0/etc" /etc
mount --bind "$0/lib" /var/lib
ip link set lo up
ip link add eth0 address 52:54:00:12:34:56 type veth peer name peer0 netns "$peer"
exec "$@"
"""
BOOT_ID = "/proc/sys/kernel/random/boot_id"
# what a copy's card has: the addresses of VM 3, with their prefixes
OWN_3 = {"10.0.0.4": 24, "fd00:c::4": 64, "fe80::5054:ff:fe00:3": 64}
LOCALHOST = "127.0.0.1 localhost\n"  # /etc/hosts, as it was
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces, as root")


@contextlib.contextmanager
def network_of(pid: int) -> Iterator[None]:
    """Sockets that are made here are of this process's network, for as long as they live."""
    setns = ctypes.CDLL(None, use_errno=True).setns
    mine, theirs = Path("/proc/thread-self/ns/net"), Path(f"/proc/{pid}/ns/net")
    with mine.open() as here, theirs.open() as there:
        if setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns to the network of process {pid}")
        try:
            yield
        finally:
            setns(here.fileno(), CLONE_NEWNET)


@dataclass(frozen=True)
class Cabled:
    """An agent and the far end of its card's cable."""

    guest: Guest
    peer: int  # a process in the namespace of the far end
    folder: Path  # with etc/ and lib/, which the agent has as /etc and /var/lib

    @property
    def pid(self) -> int:
        return self.guest.process.pid

    def run(self, *argv: str) -> str:
        """Runs a command where the agent is; its standard output."""
        enter = ["nsenter", "-t", str(self.pid), "-n", "-m", "-u", "--"]
        return subprocess.run(
            [*enter, *argv], check=True, capture_output=True, text=True, timeout=DEADLINE
        ).stdout

    def run_far(self, *argv: str) -> None:
        """Runs a command where the far end is."""
        enter = ["nsenter", "-t", str(self.peer), "-n", "--"]
        subprocess.run([*enter, *argv], check=True, timeout=DEADLINE)

    def far_addresses(self, change: Literal["add", "del"]) -> None:
        """Without its addresses the far end answers nothing."""
        for words in ("10.0.0.254/8 dev peer0", "fd00:c::fffe/64 dev peer0 nodad"):
            self.run_far("ip", "addr", change, *words.split())

    def addresses(self) -> dict[str, int]:
        """The card's addresses with their prefixes; none is still being checked for doubles."""
        (card,) = json.loads(self.run("ip", "-j", "addr", "show", "dev", "eth0"))
        assert not any(info.get("tentative") for info in card["addr_info"])
        return {info["local"]: info["prefixlen"] for info in card["addr_info"]}

    def mac(self) -> str:
        (card,) = json.loads(self.run("ip", "-j", "link", "show", "dev", "eth0"))
        assert "UP" in card["flags"]
        return str(card["address"])

    def routes(self, *options: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("ip", "-j", *options, "route"))
        return [route for route in found if route.get("dev") == "eth0"]

    def text(self, path: str) -> str:
        """A file as programs beside the agent read it."""
        return self.run("cat", path)

    def listen(
        self, family: socket.AddressFamily, host: str, *, far: bool = False
    ) -> socket.socket:
        """A listening socket of the guest's, or of the far end's."""
        with network_of(self.peer if far else self.pid):
            listener = socket.socket(family)
        listener.settimeout(DEADLINE)
        listener.bind((host, 0))
        listener.listen()
        return listener

    def connect(
        self,
        address: Any,
        family: socket.AddressFamily = socket.AF_INET,
        type: socket.SocketKind = socket.SOCK_STREAM,
        *,
        far: bool = False,
    ) -> socket.socket:
        """A connection from the guest, or from the far end."""
        with network_of(self.peer if far else self.pid):
            sock = socket.socket(family, type)
        sock.settimeout(DEADLINE)
        sock.connect(address)
        return sock

    def sniffer(self) -> socket.socket:
        """Sees every frame that comes out of the cable's far end."""
        with network_of(self.peer):
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        sock.bind(("peer0", 0))
        sock.setblocking(False)
        return sock


def frames_from_guest(sniffer: socket.socket, seconds: float) -> list[bytes]:
    """What came from the guest up to now, and within these seconds."""
    ends = time.monotonic() + seconds
    frames = []
    while select.select([sniffer], [], [], max(0, ends - time.monotonic()))[0]:
        frame, (_, _, kind, *_) = sniffer.recvfrom(65536)
        if kind != socket.PACKET_OUTGOING:
            frames.append(frame)
    return frames


@contextlib.asynccontextmanager
async def far_end() -> AsyncIterator[int]:
    """A process in a network namespace of its own, with nothing in it yet."""
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"up\n"
        yield process.pid
    finally:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def cabled_guest(folder: Path, left_alone: str = LEFT_ALONE) -> AsyncIterator[Cabled]:
    """An agent with a card eth0 that is down and has no address, as a template's; the far end is up."""
    async with far_end() as peer:
        unshare = ["unshare", "--net", "--mount", "--uts", "--propagation", "private"]
        within = [*unshare, "sh", "-c", BEGIN, str(folder), str(peer)]
        async with running_guest(within=within, left_alone=left_alone) as guest:
            cabled = Cabled(guest, peer, folder)
            cabled.run_far("ip", "link", "set", "peer0", "up")
            cabled.far_addresses("add")
            yield cabled


@pytest.fixture
async def cabled(tmp_path: Path) -> AsyncIterator[Cabled]:
    """An agent whose session has not begun."""
    async with cabled_guest(tmp_path) as cabled:
        yield cabled


@pytest.fixture
async def master(cabled: Cabled) -> AsyncIterator[GuestPort]:
    """Its port, once it has booted as the master."""
    port = await cabled.guest.port()
    await port.begin(MASTER, "boot", deadline=DEADLINE)
    yield port


async def become_clone(port: GuestPort) -> None:
    """The guest's agent is told that it is VM 3, a copy."""
    await port.begin(IDENTITY, "clone", deadline=DEADLINE)


async def say_hosts(host: RawHost, text: str, **more: object) -> None:
    """Returns once the guest has read it."""
    await host.tell(5, type="hosts", text=text, **more)
    await host.tell(5, type="ping", id=1)
    while (await host.message())[1] != messages.Pong("pong", 1):
        pass
