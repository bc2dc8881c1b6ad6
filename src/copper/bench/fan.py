"""One `gc clone N`, and the instants at which each clone is itself and answers a ping over the network."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import select
import time

from copper.bench.calls import Shell, identities, returned
from copper.bench.place import Place
from copper.bench.probe import Probe
from copper.model.errors import TimedOut
from copper.model.names import vm_name
from copper.net.addresses import ipv4_of

DEADLINE_S = 120.0
AGAIN_S = 0.005  # so often is pinged who is ready and has not answered


@dataclasses.dataclass(frozen=True)
class Fanned:
    """Lists are by clone, in milliseconds since the line that calls `gc clone` was sent.

    `began`, `ended`: that instant and the last answer's, in seconds of the monotonic clock.
    """

    clones: list[str]
    began: float
    ended: float
    returned_ms: float
    ready_ms: list[float]
    reached_ms: list[float]

    @property
    def last_ms(self) -> float:
        return max(self.reached_ms)


def fan_out(
    place: Place, shell: Shell, probe: Probe, count: int, *, ticket: str = "", line: str = ""
) -> Fanned:
    """`gc clone COUNT`, or onto a ticket that holds so many, up to the last clone's first answer over the network.

    `line`: another line for the shell in the place of that one, which prints 0 in the caller. Raises CopperError,
    TimedOut.
    """
    cluster = shell.vm.rpartition("-")[0]
    first = place.client.cluster(cluster).next_vmid
    names = {vm_name(cluster, first + n): ipv4_of(first + n) for n in range(count)}
    of = {address: name for name, address in names.items()}
    ready: dict[str, float] = {}
    reached: dict[str, float] = {}
    with (
        identities(place.settings.vms_dir, list(names)) as arrivals,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        began = time.perf_counter()
        shell.tell(line or f"gc clone {ticket or count}")
        caller = pool.submit(returned, shell)
        try:
            while len(reached) < count:
                waiting = ready.keys() - reached.keys()
                wait = AGAIN_S if waiting else 0.2
                select.select([arrivals.fileno(), *probe.filenos()], [], [], wait)
                at = time.perf_counter()
                for address in probe.answered():
                    if (name := of.get(address)) is not None:
                        reached.setdefault(name, at)
                for name in arrivals.arrived():
                    ready[name] = at
                for name in ready.keys() - reached.keys():
                    probe.ping(names[name])
                if caller.done() and caller.exception() is not None:
                    caller.result()
                if at - began > DEADLINE_S:
                    missing = sorted(names.keys() - reached.keys())
                    raise TimedOut(f"{', '.join(missing)}: not reached within {DEADLINE_S:g} s")
            back = caller.result()
        except BaseException:
            shell.give_up()
            raise

    def since(at: float) -> float:
        return (at - began) * 1000

    return Fanned(
        clones=list(names),
        began=began,
        ended=max(reached.values()),
        returned_ms=since(back),
        ready_ms=[since(ready[name]) for name in names],
        reached_ms=[since(reached[name]) for name in names],
    )


def end_all(place: Place, shell: Shell) -> float:
    """`gc killall` in a master: milliseconds until its clones are gone, the last one's process too. Raises TimedOut."""
    began = time.perf_counter()
    shell.tell("gc killall; echo ended")
    while shell.listen() != "ended":
        pass  # what was asked before, and given up
    cluster, master = shell.vm.rpartition("-")[0], f"{shell.vm}.json"
    while any(one.name != master for one in place.settings.vms_dir.glob(f"{cluster}-*.json")):
        if time.perf_counter() - began > DEADLINE_S:
            raise TimedOut(f"clones are there {DEADLINE_S:g} s after gc killall")
        place.wait(0.005)
    return (time.perf_counter() - began) * 1000


def await_standbys(place: Place, least: int = 0) -> None:
    """Returns when all processes wait that shall, at least so many, and everything is at rest. Raises TimedOut."""
    deadline = time.monotonic() + DEADLINE_S
    before = -1
    while (now := place.client.facts().standbys) != before or now < least:
        if time.monotonic() > deadline:
            raise TimedOut(f"{now} standbys after {DEADLINE_S:g} s, and more to come")
        before = now
        place.rest(quiet=True)
