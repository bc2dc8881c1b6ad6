"""Forks a machine whose memcached holds a value, and asks every machine for it, on the clock."""

from __future__ import annotations

import dataclasses
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from copper.model.errors import CopperError, TimedOut

if TYPE_CHECKING:
    from copper.client import Client

KEY = "copper"
ASK = ["nc", "-N", "127.0.0.1", "11211"]  # memcached's text protocol, from inside the machine
LOOK_S = 0.02  # between two looks at which clones are there
SERVICE_S = 30.0


@dataclasses.dataclass(frozen=True)
class Machine:
    """What one machine answered. `answered_ms` is since the call, as seen on the host."""

    name: str
    vmid: int
    value: str
    answered_ms: float
    own_bytes: int


@dataclasses.dataclass(frozen=True)
class Forked:
    """A whole fork: the master first, then its clones."""

    machines: list[Machine]
    pause_ms: float | None
    returned_ms: float


def stored(client: Client, master: str) -> str:
    """Stores a value that no other run has, and gives it. Raises CopperError."""
    value = f"stored at {time.strftime('%H:%M:%S')}"
    ask = f"set {KEY} 0 0 {len(value)}\r\n{value}\r\nquit\r\n".encode()
    done = client.run(master, ASK, stdin=ask)
    if done.stdout.strip() != b"STORED":
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise CopperError(f"memcached in {master} did not store a value: {said or done.status}")
    return value


def _asked(client: Client, name: str) -> str:
    """What the machine's memcached has for the key."""
    done = client.run(name, ASK, stdin=f"get {KEY}\r\nquit\r\n".encode())
    lines = done.stdout.decode(errors="replace").split("\r\n")
    if len(lines) > 1 and lines[0].startswith(f"VALUE {KEY} "):
        return lines[1]
    return (done.stderr.decode(errors="replace").strip() or lines[0] or "no answer")[:24]


def fork(client: Client, cluster: str, master: str, count: int) -> Forked:
    """Runs `gc clone COUNT` in the master and asks each machine as soon as it is there.

    Raises what `gc` said when the call failed.
    """
    returned = threading.Event()
    began = time.perf_counter()

    def since() -> float:
        return (time.perf_counter() - began) * 1000

    def call() -> float:
        try:
            done = client.run(master, ["gc", "clone", str(count)])
            at = since()
        finally:
            returned.set()
        if done.status != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise CopperError(f"gc clone {count} failed: {said or done.status}")
        return at

    def ask(name: str) -> tuple[str, float]:
        return _asked(client, name), since()

    with ThreadPoolExecutor(count + 1) as pool:
        calling = pool.submit(call)
        asked: dict[str, Future[tuple[str, float]]] = {}
        while len(asked) < count:
            over = returned.wait(LOOK_S)  # looked once more after the call has returned
            for vm in client.vms(cluster):
                if vm.vmid != 0 and vm.state == "running" and vm.name not in asked:
                    asked[vm.name] = pool.submit(ask, vm.name)
            if over and len(asked) < count:
                calling.result()
                if since() > SERVICE_S * 1000:
                    raise TimedOut(f"only {len(asked)} of {count} clones are there")
        returned_ms = calling.result()
        asked[master] = pool.submit(ask, master)
        answers = {name: future.result() for name, future in asked.items()}
    statuses = {status.name: status for status in client.statuses()}
    machines = [
        Machine(
            name=name,
            vmid=statuses[name].identity.vmid,
            value=answer,
            answered_ms=at,
            own_bytes=statuses[name].own_bytes,
        )
        for name, (answer, at) in answers.items()
    ]
    return Forked(
        machines=sorted(machines, key=lambda machine: machine.vmid),
        pause_ms=statuses[master].last_pause_ms,
        returned_ms=returned_ms,
    )
