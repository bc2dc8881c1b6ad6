"""Measurements in a process of their own: what they say of memory is theirs, and no other's work is in their times.

`python -m copper.bench.apart WHAT ORDER` prints what it measured; an order and a result are JSON objects.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from copper.model.errors import CopperError, TimedOut

DEADLINE_S = 1800.0


def apart(what: str, order: dict[str, Any], log: Path) -> dict[str, Any]:
    """Runs one of the measurements below and returns its result. Raises CopperError with what it said."""
    with log.open("ab") as said:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "copper.bench.apart", what, json.dumps(order)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                timeout=DEADLINE_S,
                check=False,
                start_new_session=True,  # a Ctrl-C is the bench's, which ends it
            )
        except subprocess.TimeoutExpired:
            raise TimedOut(f"bench {what}: no result within {DEADLINE_S:g} s") from None
    if done.returncode != 0:
        lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        raise CopperError(f"bench {what}: {lines[-1][-300:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def high_water_mb() -> float:
    """The most memory that this process ever had, VmHWM, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(value) * 1024 / 1e6


def main() -> None:
    from copper.bench import clients, dns_load, scale

    kinds = {
        "open-loop": clients.open_loop,
        "closed-loop": clients.closed_loop,
        "fill": scale.fill,
        "open": scale.open_book,
        "hosts": scale.hosts_alone,
        "dns-steady": dns_load.steady,
        "dns-most": dns_load.most,
        "dns-most-tcp": dns_load.most_tcp,
        "dns-echo": dns_load.echo,
    }
    what, order = sys.argv[1:]
    print(json.dumps(kinds[what](json.loads(order))))


if __name__ == "__main__":
    main()
