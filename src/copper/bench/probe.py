"""Looks into a virtual cluster's network from the host's end of it: who answers a ping, and what machines report.

Its sockets are made in the network's namespace, and stay of it wherever they are used.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from copper.bench.place import Place
from copper.host.cgroups import instance_of
from copper.model.errors import CopperError
from copper.net import echo, namespaces
from copper.net.addresses import GATEWAY

PORT = 5301  # of the reports, at the host's end


class Probe:
    """Of one virtual cluster that has VMs. `close` it."""

    def __init__(self, place: Place, cluster: str) -> None:
        """Raises CopperError where the virtual cluster has no network."""
        instance = instance_of(place.settings.run_dir)[:6]
        self._sockets: list[socket.socket] = []
        self._failed: OSError | None = None
        self._number = os.getpid() & 0xFFFF
        thread = threading.Thread(target=self._open, args=(f"copper-{instance}-{cluster}",))
        thread.start()
        thread.join()
        if self._failed is not None:
            raise CopperError(f"no network of {cluster}: {self._failed}")
        self._pings, self._reports = self._sockets

    def _open(self, namespace: str) -> None:
        """In a thread that ends in that namespace."""
        try:
            namespaces.enter(namespace)
            pings = echo.new_socket()
            reports = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._sockets = [pings, reports]
            reports.bind((GATEWAY, PORT))
            reports.setblocking(False)
        except OSError as error:
            self._failed = error
            self.close()

    def close(self) -> None:
        for one in self._sockets:
            one.close()

    def filenos(self) -> list[int]:
        """Readable when something has come."""
        return [one.fileno() for one in self._sockets]

    def ping(self, address: str) -> None:
        """Asks for an echo; nobody waits for it here."""
        with contextlib.suppress(OSError):  # asked again, if nobody answers
            self._pings.sendto(echo.request(self._number), (address, 0))

    def answered(self) -> Iterator[str]:
        """The addresses that have answered since this was last asked."""
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, (address, _) = self._pings.recvfrom(2048)
                if echo.is_reply(packet, self._number):
                    yield address

    def reported(self) -> Iterator[str]:
        """What machines have said since this was last asked."""
        with contextlib.suppress(BlockingIOError):
            while True:
                yield self._reports.recv(2048).decode(errors="replace")

    def await_reports(self, count: int, deadline_s: float) -> float:
        """The instant at which so many different machines have reported. Raises CopperError."""
        heard: set[str] = set()
        until = time.monotonic() + deadline_s
        while time.monotonic() < until:
            if select.select([self._reports], [], [], 0.2)[0]:
                at = time.perf_counter()
                heard.update(self.reported())
                if len(heard) >= count:
                    return at
        raise CopperError(f"{len(heard)} of {count} machines were answered by all others")


@contextlib.contextmanager
def a_probe(place: Place, cluster: str) -> Iterator[Probe]:
    """One, closed at the end of the block."""
    probe = Probe(place, cluster)
    try:
        yield probe
    finally:
        probe.close()


def mesh_program(folder: Path) -> bytes:
    """The guest's program that pings all machines, compiled here: `mesh.c` beside this file. Raises CopperError."""
    target = folder / "mesh"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-static", "-s"]
    argv = ["cc", *flags, "-o", str(target), str(Path(__file__).with_name("mesh.c"))]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise CopperError("there is no cc", advice="install the package gcc") from None
    if done.returncode:
        raise CopperError(f"cc: {done.stderr.strip()[-200:]}")
    return target.read_bytes()
