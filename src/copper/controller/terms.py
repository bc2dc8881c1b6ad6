"""What the numbers of a ticket's request mean, and the clock that its time runs by."""

from __future__ import annotations

import time
from pathlib import Path

from copper.model.errors import BadInput, NoRoom
from copper.model.names import MOST_CLONES
from copper.model.tickets import TicketRequest


class OverLimit(NoRoom):
    """A user's quota, or a virtual cluster's limits, allow no more."""


class NoAddress(NoRoom):
    """A public network has fewer addresses left than are wanted."""

    def __init__(self, network: str, left: int, wanted: int, why: str = "") -> None:
        text = f"network {network} has {left} addresses left, not {wanted}"
        super().__init__(
            f"{text}: {why}" if why else text, advice="end VMs that have some, or ask for fewer"
        )
        self.network = network


def since_boot() -> float:
    """Seconds that no setting of the clock changes; they go on while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def check_request(request: TicketRequest, cpus: int) -> int:
    """As many VMs of `cpus` processors as MAXCPUS allows.

    Raises BadInput where the numbers contradict each other, NoRoom where this VM's clones are not what was asked for.
    """
    for name, number in (
        ("MAXCPUS", request.maxcpus),
        ("MINVMS", request.minvms),
        ("MINCPUSPERVM", request.mincpuspervm),
    ):
        if number < 1:
            raise BadInput(f"request-ticket: {name}: expected a number from 1, got {number!r:.40}")
    if request.timeout_ms < 0:
        raise BadInput(
            f"request-ticket: TIMEOUT_MS: expected 0 or more milliseconds, got {request.timeout_ms!r:.40}"
        )
    if request.maxcpus < request.minvms * request.mincpuspervm:
        raise BadInput(
            f"request-ticket: MAXCPUS: expected at least MINVMS times MINCPUSPERVM,"
            f" {request.minvms * request.mincpuspervm}, got {request.maxcpus}"
        )
    if request.mincpuspervm > cpus:
        raise NoRoom(
            f"request-ticket: MINCPUSPERVM: a clone of this VM has {cpus}, not {request.mincpuspervm}"
        )
    fit = min(request.maxcpus // cpus, MOST_CLONES)
    if fit < request.minvms:
        raise NoRoom(
            f"request-ticket: {request.maxcpus} processors make {fit} clones of {cpus} each,"
            f" not {request.minvms}"
        )
    return fit
