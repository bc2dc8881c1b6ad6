"""Builds targets of a Makefile, each in a machine of its own: launcher.py MASTER FOLDER OUT TARGET…

For each target the machine MASTER is forked, `make` builds the target there in FOLDER, the file comes to the folder OUT
of this machine, and the fork is ended. Two targets are built at a time. Status 1 when one of them failed.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from copper.client import Client

AT_ONCE = 2
PATIENCE_MS = 600_000  # for room on a farm that is full


@contextlib.contextmanager
def worker(client: Client, master: str) -> Iterator[str]:
    """A fork of the master, by its name; ended when its work is, however that ended."""
    ticket = client.request_ticket(master, 1, timeout_ms=PATIENCE_MS)
    [vm] = client.clone_vm(master, ticket=ticket.id)
    try:
        yield vm.name
    finally:
        client.kill_vm(vm.name)


def build(client: Client, master: str, folder: str, out: Path, target: str) -> bool:
    """One target; says how it went, with what make said."""
    began = time.monotonic()
    with worker(client, master) as vm:
        made = client.run(vm, ["make", "--no-print-directory", "-C", folder, target])
        if made.status == 0:
            client.pull(vm, f"{folder}/{target}", out / target)
    word = "made" if made.status == 0 else "FAILED"
    said = (made.stdout + made.stderr).decode(errors="replace").rstrip()
    print(f"{word} {target} in {vm}, {time.monotonic() - began:.1f} s\n{said}", flush=True)
    return made.status == 0


def main(master: str, folder: str, out: str, *targets: str) -> int:
    """All targets, as many at once as there are machines to be."""
    client = Client()
    Path(out).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        made = pool.map(lambda target: build(client, master, folder, Path(out), target), targets)
        return 0 if all(list(made)) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
