"""What `copper bench controller` measures: each kind with a unit and from where to where, and the figures to reach."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from copper.bench.stats import Tail, summarize_tail
from copper.bench.targets import Verdict

CLIENTS = 64
PER_SECOND = 200
SECONDS = 30.0
HOSTS, CLUSTERS, EACH = 1000, 100, 1000  # of the simulation: 100 virtual clusters of 1,000 VMs
VMS = 100  # that a killed node must find again

GRANTED = "ticket granted, over HTTP"
RELEASED = "ticket released, over HTTP"
FLOOR = "floor: a bare commit at that rate"
BARE = "bare SQLite commits"
IN_PROCESS = "ticket operations in process"
OVER_HTTP = "ticket operations over HTTP"
IN_PROCESS_SHARE = "in process / bare"
OVER_HTTP_SHARE = "over HTTP / bare"
DECISION = "placement decision"
GRANTED_LARGE = "ticket granted, in process"
LISTING = f"listing a virtual cluster of {EACH} VMs"
LISTING_PAGE = "of that, the first 100"
FORK_LARGE = f"fork into {EACH - 1} clones"
OPEN = "opening the book"
START = "from the start to the end of reconcile"
MEMORY = "memory of the process, at most"
MEMORY_HOSTS = "of that, fake hosts alone"
MEMORY_BOOK = "memory of a process with the book alone"
SERVES = "from kill -9 until it serves again"
FOUND = "from kill -9 until all VMs are found"
LOST = "VMs lost"
TWICE = "VMs twice"
LIMIT_MB = 1000


@dataclasses.dataclass(frozen=True)
class Kind:
    """One row of the table."""

    part: str
    name: str
    unit: str
    means: str
    more_is_better: bool = False


PARTS = {
    "tickets": f"{CLIENTS} clients ask for {PER_SECOND} tickets a second together",
    "saturated": f"as many operations as there can be, {CLIENTS} clients",
    "scale": f"{HOSTS} fake hosts and {CLUSTERS * EACH} simulated VMs in one process; every fourth cluster is spread",
    "recovery": f"a node with {VMS} VMs is killed with -9 and started again at once",
}
_OPERATIONS = (
    "each request and each release of a ticket is one operation, durable when it returns; those that wait at the"
    " same time share a transaction"
)
KINDS = (
    Kind(
        "tickets",
        GRANTED,
        "ms",
        "from the moment for which a request was scheduled until its answer is there; each client has a"
        " connection that stays, and moments are spread by chance, whether the one before is answered or not",
    ),
    Kind(
        "tickets",
        RELEASED,
        "ms",
        "from the request to the answer; each ticket is released as soon as it is granted",
    ),
    Kind(
        "tickets",
        FLOOR,
        "ms",
        f"one SQLite commit of a ticket's row, {2 * PER_SECOND} a second, before and after the others",
    ),
    Kind(
        "saturated",
        BARE,
        "1/s",
        "one thread inserts a ticket's row into the store's own table, a transaction each, with"
        " write-ahead log and synchronous=FULL",
        True,
    ),
    Kind(
        "saturated",
        IN_PROCESS,
        "1/s",
        f"{CLIENTS} tasks ask a controller's core over the SQLite store for a ticket and release it, again and"
        f" again: {_OPERATIONS}",
        True,
    ),
    Kind(
        "saturated",
        OVER_HTTP,
        "1/s",
        f"the same by {CLIENTS} connections to a node of its own, from another process",
        True,
    ),
    Kind("saturated", IN_PROCESS_SHARE, "x", "of the same round", True),
    Kind("saturated", OVER_HTTP_SHARE, "x", "of the same round", True),
    Kind("scale", FORK_LARGE, "s", "in process, all rows durable and all fake hosts answered"),
    Kind("scale", DECISION, "ms", "where 8 more clones of some VM go, over all hosts"),
    Kind(
        "scale",
        GRANTED_LARGE,
        "ms",
        "from the request to the durable ticket, one at a time, while hosts report as always",
    ),
    Kind("scale", LISTING, "ms", "GET /v1/vms?cluster=… in process, up to the last byte of JSON"),
    Kind("scale", LISTING_PAGE, "ms", "GET /v1/vms?cluster=…&limit=100, as above"),
    Kind("scale", OPEN, "s", "reading all rows from SQLite, in a process of its own"),
    Kind("scale", START, "s", "the book opened, all hosts asked, all rows compared with them"),
    Kind("scale", MEMORY, "MB", "VmHWM of the process with the controller and all fake hosts"),
    Kind("scale", MEMORY_HOSTS, "MB", "VmHWM of a process with the same fake hosts and VMs alone"),
    Kind("scale", MEMORY_BOOK, "MB", "VmHWM of a process that opened the book and does no more"),
    Kind("recovery", SERVES, "ms", "until GET /v1/health answers"),
    Kind("recovery", FOUND, "ms", "until the host lists all of them as running"),
    Kind("recovery", LOST, "", "not running any more, or not in the controller's list"),
    Kind("recovery", TWICE, "", "more processes than VMs, or a VM that is another process"),
)


def tails(kinds: Iterable[Kind], samples: Mapping[str, list[float]]) -> dict[str, Tail]:
    """What the samples of these kinds say, by kind; of those that were not measured nothing."""
    return {
        kind.name: summarize_tail(samples[kind.name], more_is_better=kind.more_is_better)
        for kind in kinds
        if samples.get(kind.name)
    }


def summaries(samples: Mapping[str, list[float]]) -> dict[str, Tail]:
    """By kind, those that were measured, in the order of the table."""
    return tails(KINDS, samples)


def verdicts(samples: Mapping[str, list[float]], parts: Sequence[str]) -> list[Verdict]:
    """The figures to reach of the parts that were asked for."""
    found = summaries(samples)

    def one(kind: str, what: str, unit: str, limit: float, at: str) -> Verdict:
        tail = found.get(kind)
        figure = getattr(tail, at) if tail is not None else None
        return Verdict(what, figure, unit, limit, note=f"n {tail.n}" if tail is not None else "")

    def share(kind: str, what: str, limit: float) -> Verdict:
        tail = found.get(kind)
        note = f"worst round {tail.worst:.2f}" if tail is not None else ""
        figure = tail.p50 if tail is not None else None
        return Verdict(what, figure, "x", limit, at_least=True, note=note)

    every = {
        "tickets": [
            one(GRANTED, f"{PER_SECOND} tickets/s over HTTP: granted, p99", "ms", 20, "p99")
        ],
        "saturated": [
            share(IN_PROCESS_SHARE, "operations in process over bare commits, p50", 0.5),
            share(OVER_HTTP_SHARE, "operations over HTTP over bare commits, p50", 0.1),
        ],
        "scale": [
            one(DECISION, "placement decision, p99", "ms", 50, "p99"),
            one(GRANTED_LARGE, f"ticket granted among {CLUSTERS * EACH} VMs, p99", "ms", 50, "p99"),
            one(LISTING, f"listing {EACH} VMs, p99", "ms", 100, "p99"),
            one(MEMORY, "memory, fake hosts included", "MB", LIMIT_MB, "worst"),
        ],
        "recovery": [
            one(SERVES, "serves again, worst", "ms", 2000, "worst"),
            one(FOUND, f"all {VMS} VMs found again, worst", "ms", 3000, "worst"),
            one(LOST, "VMs lost, worst round", "", 0, "worst"),
            one(TWICE, "VMs twice, worst round", "", 0, "worst"),
        ],
    }
    return [verdict for part in PARTS if part in parts for verdict in every[part]]
