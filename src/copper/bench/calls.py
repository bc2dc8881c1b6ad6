"""Forks as a program in a guest asks for them, and the instants at which they are answered.

A shell is started in the VM once, and told line by line what to do: so a command's start over the API is not counted.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import dataclasses
import json
import os
import select
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from copper.bench.place import Place
from copper.client.commands import STDERR, STDIN, STDOUT, beginning, status_of
from copper.model.errors import CopperError, TimedOut
from copper.model.names import vm_name

DEADLINE_S = 60.0
IDENTITY = "/run/gridcentric/identity"  # the agent's file of who it is, in every guest
GLANCE_S = 0.2  # so often is looked whether something is still worth waiting for
LOOP = 'while read -r line; do eval "$line" || echo "failed: $?"; done'
BUSY_MIB, WORK_MIB = 8, 16
# `went` appears after the first time around
BUSY = (
    f"while :; do dd if=/dev/urandom of=/dev/shm/busy bs=65536 count={BUSY_MIB * 16} conv=notrunc;"
    " md5sum /dev/shm/busy; : >/dev/shm/went; done"
)
BUSY_BEGINS = (
    f"setsid sh -c '{BUSY}' >/dev/null 2>&1 & until [ -e /dev/shm/went ]; do sleep 0.05; done;"
    " echo busy"
)
WORK = (
    f"dd if=/dev/urandom of=/dev/shm/work bs=65536 count={WORK_MIB * 16} 2>/dev/null;"
    " md5sum /dev/shm/work >/dev/null; rm /dev/shm/work; echo worked"
)
_IN_MOVED_TO = 0x80
_EVENT = struct.Struct("iIII")


class Lines(Protocol):
    """What a shell is told through: a stream of the API, or of another VM's channel."""

    def send(self, data: bytes) -> bool: ...

    def receive(self, timeout_s: float | None = None) -> bytes | dict[str, Any]: ...


class Shell:
    """A shell in a VM that does what it is told, a line at a time."""

    def __init__(self, vm: str, stream: Lines) -> None:
        self.vm = vm
        self._stream = stream
        self._said = b""
        self._errors = b""
        self._given_up = False

    def ask(self, line: str) -> str:
        """One line to the shell, one line back. Raises CopperError with what it says went wrong, TimedOut."""
        self.tell(line)
        return self.listen()

    def tell(self, line: str) -> None:
        self._stream.send(STDIN + line.encode() + b"\n")

    def give_up(self) -> None:
        """Whoever listens, in another thread, does not wait any longer."""
        self._given_up = True

    def listen(self) -> str:
        """The next line that it prints."""
        deadline = time.monotonic() + DEADLINE_S
        while b"\n" not in self._said:
            try:
                message = self._stream.receive(GLANCE_S)
            except TimeoutError:
                if self._given_up or time.monotonic() > deadline:
                    raise TimedOut(f"no answer from {self.vm} within {DEADLINE_S:g} s") from None
                continue
            if isinstance(message, dict):
                if message.get("type") == "exit":
                    raise CopperError(f"the shell in {self.vm} ended: {status_of(message)}")
            elif message[0] == STDOUT:
                self._said += message[1:]
            elif message[0] == STDERR:
                self._errors += message[1:]
        line, _, self._said = self._said.partition(b"\n")
        said = line.decode(errors="replace")
        if said.startswith("failed: "):
            why = self._errors.decode(errors="replace").strip() or said
            raise CopperError(f"in {self.vm}: {why[-200:]}")
        return said


@contextmanager
def a_shell(place: Place, vm: str) -> Iterator[Shell]:
    """Starts a shell in a VM; it has answered once."""
    with place.client.stream(vm, "exec") as stream:
        stream.tell(beginning(["/bin/sh", "-c", LOOP]))
        shell = Shell(vm, stream)
        shell.ask("echo here")
        yield shell


@dataclasses.dataclass(frozen=True)
class Forked:
    """One `gc clone`: milliseconds since the line that calls it was sent; lists are by clone."""

    clones: list[str]
    returned_ms: float
    ready_ms: list[float]
    answered_ms: list[float]


def fork(place: Place, shell: Shell, count: int) -> Forked:
    """`gc clone COUNT` in a shell's VM, up to the answer of the last clone. Raises CopperError, TimedOut."""
    cluster = shell.vm.rpartition("-")[0]
    first = place.client.cluster(cluster).next_vmid
    names = [vm_name(cluster, first + number) for number in range(count)]
    with (
        identities(place.settings.vms_dir, names) as arrivals,
        concurrent.futures.ThreadPoolExecutor(count + 1) as pool,
    ):
        start = time.perf_counter()
        shell.tell(f"gc clone {count}")
        caller = pool.submit(returned, shell)
        try:
            ready: dict[str, float] = {}
            answers: dict[str, concurrent.futures.Future[float]] = {}
            for name, at in arrivals.until_all(caller):
                ready[name] = at
                answers[name] = pool.submit(answered, place, name)
            last = [answers[name].result() for name in names]
            back = caller.result()
        except BaseException:
            shell.give_up()
            raise

    def since(at: float) -> float:
        return (at - start) * 1000

    return Forked(
        clones=names,
        returned_ms=since(back),
        ready_ms=[since(ready[name]) for name in names],
        answered_ms=[since(at) for at in last],
    )


def returned(shell: Shell) -> float:
    """When what `gc clone` prints in the caller was here. Raises CopperError when it is no 0."""
    said = shell.listen()
    at = time.perf_counter()
    if said != "0":
        raise CopperError(f"gc clone in {shell.vm} printed {said!r}")
    return at


def answered(place: Place, name: str) -> float:
    """When this VM's agent answered a request: it reads a file of its own, which says who it is."""
    text = b""
    at = 0.0
    with place.client.stream(name, "pull") as stream:
        stream.tell({"path": IDENTITY})
        ended = False
        while not ended:
            try:
                message = stream.receive(DEADLINE_S)
            except TimeoutError:
                raise TimedOut(f"no answer from {name} within {DEADLINE_S:g} s") from None
            if isinstance(message, bytes):
                text += message
                at = time.perf_counter()
            else:
                ended = message.get("type") == "exit"
    vmid = vmid_in(text)
    if name != f"{name.rpartition('-')[0]}-{vmid}":
        raise CopperError(f"{name} says that its vmid is {vmid}")
    return at


def vmid_in(text: bytes) -> object:
    """What a guest's IDENTITY says that it is; None when it says nothing."""
    try:
        return json.loads(text)["vmid"]
    except (ValueError, KeyError, TypeError):
        return None


class Identities:
    """Tells when VMs have taken their identity, by what the host agent then writes down of them.

    Looking on, instead of asking again and again, takes nothing from what is measured.
    """

    def __init__(self, fd: int, folder: Path, names: list[str]) -> None:
        self._fd = fd
        self._folder = folder
        self._awaited = set(names)

    def until_all(self, caller: concurrent.futures.Future[float]) -> Iterator[tuple[str, float]]:
        """Each VM's name and instant, as they come. Raises what `caller` raised, or TimedOut."""
        deadline = time.monotonic() + DEADLINE_S
        while self._awaited:
            if not select.select([self._fd], [], [], GLANCE_S)[0]:
                if caller.done() and caller.exception() is not None:
                    caller.result()
                if time.monotonic() > deadline:
                    raise TimedOut(f"{sorted(self._awaited)} not ready within {DEADLINE_S:g} s")
                continue
            at = time.perf_counter()
            for name in self.arrived():
                yield name, at

    def fileno(self) -> int:
        """Readable when a VM's record was written."""
        return self._fd

    def arrived(self) -> list[str]:
        """Those that are ready now and were not when this was last asked."""
        found = [name for name in self._moved() & self._awaited if self._is_ready(name)]
        self._awaited.difference_update(found)
        return found

    def _moved(self) -> set[str]:
        try:
            raw = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return set()
        names = set()
        offset = 0
        while offset < len(raw):
            _, _, _, length = _EVENT.unpack_from(raw, offset)
            offset += _EVENT.size
            file = raw[offset : offset + length].rstrip(b"\0").decode()
            names.add(file.removesuffix(".json"))
            offset += length
        return names

    def _is_ready(self, name: str) -> bool:
        """The record is written before the VM runs, and again, with this figure, when it is ready."""
        try:
            return float(json.loads((self._folder / f"{name}.json").read_text())["ready_ms"]) > 0
        except (OSError, ValueError, KeyError):
            return False


@contextmanager
def identities(folder: Path, names: list[str]) -> Iterator[Identities]:
    """Looks on from now until the end of the block. `folder` is where the host agent has its VMs' records."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    try:
        if libc.inotify_add_watch(fd, os.fsencode(folder), _IN_MOVED_TO) < 0:
            raise OSError(ctypes.get_errno(), "inotify", str(folder))
        yield Identities(fd, folder, names)
    finally:
        os.close(fd)
