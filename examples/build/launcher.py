"""Builds targets of a Makefile, each in a machine of its own: launcher.py MASTER FOLDER OUT TARGET…

For each target the machine MASTER is forked, `make` builds the target there in FOLDER, the file comes to the folder OUT
of this machine, and the fork is ended. As many at a time as there is room for. Status 1 when one of them failed.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from copper.client import Client

AT_ONCE = 32  # that are built or wait for room
PATIENCE_MS = 600_000  # how long one waits for room


@contextlib.contextmanager
def worker(client: Client, master: str) -> Iterator[str]:
    """A fork of the master, by its name; ended when its work is, however that ended."""
    ticket = client.request_ticket(master, 1, timeout_ms=PATIENCE_MS)
    [vm] = client.clone_vm(master, ticket=ticket.id)
    try:
        yield vm.name
    finally:
        client.kill_vm(vm.name)


def build(client: Client, master: str, folder: str, out: Path, target: str) -> tuple[bool, str]:
    """One target: whether it was made, and what there is to say of it."""
    began = time.monotonic()
    with worker(client, master) as vm:
        make = client.run(vm, ["make", "--no-print-directory", "-C", folder, target])
        if make.status == 0:
            client.pull(vm, f"{folder}/{target}", out / target)
    word = "made" if make.status == 0 else "FAILED"
    said = (make.stdout + make.stderr).decode(errors="replace")
    return make.status == 0, f"{word} {target} in {vm}, {time.monotonic() - began:.1f} s\n{said}"


def main(master: str, folder: str, out: str, *targets: str) -> int:
    """All targets, side by side; speaks of them in their order."""
    client, made = Client(), []
    Path(out).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = (lambda target: build(client, master, folder, Path(out), target), targets)
        for well, said in pool.map(*jobs):
            print(said, end="", flush=True)
            made.append(well)
    return 0 if all(made) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
