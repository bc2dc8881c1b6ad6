"""What `copper bench guest` measures: each kind with a unit and from where to where, and the figures to reach."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from copper.bench import guest_programs as programs
from copper.bench.stats import Tail, number, summarize_tail
from copper.bench.targets import Verdict

CLONES = 32
WHERE = "with --image debian-12-dev"  # whose bindings are measured
CALLS = 50  # by a program in one turn
IN_A_ROW = 20  # programs that are started one after the other for one sample: a guest's clock has ticks of 10 ms
AT_ONCE = 200  # calls that load the agent before its memory is read

TRUE = "starting true"
VMID = "gc vmid"
BEYOND = "gc vmid beyond true"
TRIP = f"a word to {CLONES + 1} shells and back"
BARRIER = f"barrier over {CLONES} clones, all return"
BARRIER_CALLER = "of that, the caller returns"
JOIN = f"join of {CLONES} clones, all collected"
JOIN_FREE = "of that, and their resources free"
MEMORY = "memory of the agent, at most"
BARE = f"vmid over a {programs.BARE}"
BINDINGS = {
    program.name: f"{program.name}, beyond it"
    for program in programs.PROGRAMS
    if program.name != programs.BARE
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """One row of the table."""

    name: str
    unit: str
    means: str


KINDS = (
    Kind(TRUE, "ms", f"/bin/true, {IN_A_ROW} in a row by a shell in an idle guest, of one"),
    Kind(VMID, "ms", "gc vmid in the same way, in turns with it"),
    Kind(BEYOND, "ms", "gc vmid less true, of the same turn"),
    Kind(
        BARE,
        "ms",
        f"a program in C in an idle guest connects, sends a line, reads one and closes: the median of {CALLS};"
        " in images with the bindings",
    ),
    *(
        Kind(
            kind,
            "ms",
            f"the median of {CALLS} calls in that language, less the bare socket's of the same round",
        )
        for kind in BINDINGS.values()
    ),
    Kind(
        TRIP,
        "ms",
        f"the floor of a barrier: a shell in the caller and one in each of {CLONES} clones are told to say a word,"
        " until the last word is here",
    ),
    Kind(
        BARRIER,
        "ms",
        f"{CLONES} clones wait in gc sync and are at rest; from when a shell in the caller is told gc sync until"
        " a word of each of them, and of the caller, is here",
    ),
    Kind(BARRIER_CALLER, "ms", "until the caller's word is here"),
    Kind(
        JOIN,
        "ms",
        f"from the barrier's passing in the caller, after which each of {CLONES} clones joins with a status and a file,"
        " until gc join has printed all statuses there; by the host's clock",
    ),
    Kind(JOIN_FREE, "ms", "until the host lists no clone and no QEMU of one besides"),
    Kind(
        MEMORY,
        "MB",
        f"VmHWM of the agent of a guest that has done all this, and then {AT_ONCE} gc list at once",
    ),
)


def summaries(samples: Mapping[str, list[float]]) -> dict[str, Tail]:
    """By kind, those that were measured, in the order of the table."""
    return {
        kind.name: summarize_tail(samples[kind.name]) for kind in KINDS if samples.get(kind.name)
    }


def verdicts(samples: Mapping[str, list[float]]) -> list[Verdict]:
    """The figures to reach."""
    found = summaries(samples)

    def one(
        kind: str, what: str, unit: str, limit: float, at: str = "p50", absent: str = ""
    ) -> Verdict:
        tail = found.get(kind)
        note = f"n {tail.n}; p95 {number(tail.p95)}, worst {number(tail.worst)}" if tail else absent
        return Verdict(what, getattr(tail, at) if tail else None, unit, limit, note=note)

    slowest = max(
        (kind for kind in BINDINGS.values() if kind in found),
        key=lambda kind: found[kind].p50,
        default="",
    )
    return [
        one(BEYOND, f"{VMID} beyond starting true, p50", "ms", 10),
        one(BARRIER, f"barrier over {CLONES} clones that are all there, p50", "ms", 300),
        one(JOIN_FREE, f"join of {CLONES} clones: collected and free, p50", "ms", 2000),
        one(slowest, "bindings add to a call, the slowest's p50", "ms", 5, absent=WHERE),
        one(MEMORY, "memory of the agent after all calls, worst", "MB", 8, "worst"),
    ]


def ratios(samples: Mapping[str, list[float]]) -> dict[str, float]:
    """Medians over medians of the same run."""
    found = summaries(samples)
    wanted = {
        "gc vmid / true": (VMID, TRUE),
        "barrier / a word to all": (BARRIER, TRIP),
        "join / barrier": (JOIN, BARRIER),
    }
    return {
        what: found[above].p50 / found[below].p50
        for what, (above, below) in wanted.items()
        if above in found and below in found and found[below].p50
    }
