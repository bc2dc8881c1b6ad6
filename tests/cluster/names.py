"""A fake Copper whose VMs have public addresses and names, and clients that ask for them."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rcode

WAIT_S = 60.0  # a machine under load starts a process as slowly as it likes
ANSWER_S = 60.0
# out of ranges that are nobody's (RFC 2544, RFC 3849)
NETWORK, POOL = "public", ("198.18.0.0/15", "2001:db8::/64")


@dataclass(frozen=True)
class NamedCopper:
    """A Copper that runs, and the port where it answers names."""

    environment: dict[str, str]
    folder: Path

    def run(self, *argv: str) -> str:
        """A command's output. Fails when it fails."""
        code = f"from copper.cli.{argv[0].replace('-', '_')} import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *argv[1:]],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, ""), (argv, done.stdout, done.stderr)
        return done.stdout

    def up(self) -> tuple[int, int]:
        """Starts it; its process, and the port of its names."""
        said = self.run("copper", "up", "--fake")
        if NETWORK not in self.run("copper", "network", "list", "--format", "name").split():
            pools = [word for pool in POOL for word in ("--pool", pool)]
            self.run("copper", "network", "create", NETWORK, *pools)
        return int(said.split("process ")[1].split(",")[0]), self.port(said)

    @staticmethod
    def port(said: str) -> int:
        return int(said.split("names at 127.0.0.1:")[1].split(",")[0])

    def vms(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("gc-vm", "list", "--format", "json"))
        return found


@contextmanager
def named_copper(**settings: str) -> Iterator[NamedCopper]:
    """A Copper that is not started yet; at the end nothing of it runs."""
    with tempfile.TemporaryDirectory(prefix="cu-") as folder:
        environment = {
            **os.environ,
            "COPPER_RUN_DIR": f"{folder}/run",
            "COPPER_STATE_DIR": f"{folder}/state",
            "COPPER_NATIVE_DIR": f"{folder}/nothing-is-built",
            "COPPER_QEMU": "no-such-qemu",
            "COPPER_NETWORKS": NETWORK,
            "COPPER_DNS": "127.0.0.1:0",
            **settings,
        }
        copper = NamedCopper(environment, Path(folder))
        try:
            yield copper
        finally:
            copper.run("copper", "down")
            assert not servers_of(Path(folder))
            assert not list(Path(folder, "run").glob("*.sock"))


def servers_of(folder: Path) -> list[int]:
    """The servers of names that belong to the Copper in this folder."""
    return servers_in(folder / "run")


def ended(pid: int) -> None:
    """Waits for the end of a process that is not this one's child."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(process):
        assert select.select([process], [], [], WAIT_S)[0]


def servers_in(run_dir: Path) -> list[int]:
    """The servers of names that belong to the Copper of this run directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if b"copper.dns" in command and f"COPPER_RUN_DIR={run_dir}".encode() in environment.split(
            b"\0"
        ):
            found.append(int(entry.name))
    return found


def dig(port: int, *question: str) -> list[str]:
    """What `dig +short` says of a question, in its order; it waits for answers as it always does."""
    done = subprocess.run(
        ["dig", "@127.0.0.1", "-p", str(port), "+short", "+tries=3", "+time=10", *question],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    return done.stdout.split("\n")[:-1]


def ask(port: int, name: str, kind: str = "A", *, tcp: bool = False) -> dns.message.Message:
    """The server's answer, over a socket of its own."""
    query = dns.message.make_query(name, kind)
    by = dns.query.tcp if tcp else dns.query.udp
    return by(query, "127.0.0.1", port=port, timeout=WAIT_S)


def texts(message: dns.message.Message) -> list[str]:
    """Its addresses or names, sorted."""
    return sorted(str(rdata) for rrset in message.answer for rdata in rrset)


def free_port() -> int:
    """One that nobody has at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
