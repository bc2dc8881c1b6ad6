"""What `copper bench dns` measures: each kind with a unit and from where to where, and the figures to reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from copper.bench.controller_kinds import Kind, tails
from copper.bench.stats import Tail
from copper.bench.targets import Verdict

PER_SECOND = 2000
VMS = 100
AT_ONCE = 32  # questions under way where as many are asked as can be
CHANGE_MS = 100

PARTS = {
    "steady": f"{PER_SECOND} questions a second over UDP, about {VMS} VMs",
    "most": f"as many answers as one processor gives, {AT_ONCE} questions under way",
    "change": f"until names are right, after {VMS} VMs have changed",
}
ANSWERED = "answered, UDP"
ECHOED = "floor: a bare echo at that rate"
SHARE = "processor of that, % of one"
UNANSWERED = "without an answer"
ECHOES = "floor: bare echoes"
KEPT = "answers, the same questions again"
ANEW = "answers, each one worked out"
TCP = "answers over TCP"
KEPT_SHARE = "the same again / bare echoes"
BORN = "a clone is ready"
GONE = "a VM is gone"
KILLED = "a VM is gone, from the call that ends it"

_MOMENT = (
    "from the moment for which a question was scheduled until its answer is there, whether the one before is answered"
    " or not; moments are spread by chance"
)
KINDS = (
    Kind("steady", ANSWERED, "ms", f"names, VMs and addresses in turn: {_MOMENT}"),
    Kind("steady", ECHOED, "ms", f"a loop of recvfrom and sendto in its place: {_MOMENT}"),
    Kind("steady", SHARE, "%", "what the server's process used, divided by the time"),
    Kind("steady", UNANSWERED, "", "questions that had no answer after a second"),
    Kind("most", ECHOES, "1/s", "the loop of recvfrom and sendto, on the same processor", True),
    Kind("most", KEPT, "1/s", "names, VMs and addresses in turn", True),
    Kind("most", ANEW, "1/s", "each for another name that is not there, so none is kept", True),
    Kind("most", TCP, "1/s", "one connection, one question at a time", True),
    Kind("most", KEPT_SHARE, "x", "of the same round", True),
    Kind(
        "change",
        BORN,
        "ms",
        f"gc clone {VMS - 1}: from the API's event that one more runs until an answer has one more address",
    ),
    Kind("change", GONE, "ms", "the same for a VM that is killed, up to NXDOMAIN"),
    Kind("change", KILLED, "ms", "the same from the request to kill it: what a user sees at most"),
)


def summaries(samples: Mapping[str, list[float]]) -> dict[str, Tail]:
    """By kind, those that were measured, in the order of the table."""
    return tails(KINDS, samples)


def verdicts(samples: Mapping[str, list[float]], parts: Sequence[str]) -> list[Verdict]:
    """The figures to reach of the parts that were asked for."""
    found = summaries(samples)

    def one(
        kind: str, what: str, unit: str, limit: float, at: str, at_least: bool = False
    ) -> Verdict:
        tail = found.get(kind)
        figure = getattr(tail, at) if tail is not None else None
        note = f"n {tail.n}" if tail is not None else ""
        return Verdict(what, figure, unit, limit, at_least=at_least, note=note)

    every = {
        "steady": [
            one(ANSWERED, f"{PER_SECOND} questions/s: answered, p99", "ms", 5, "p99"),
            one(UNANSWERED, "questions without an answer, worst round", "", 0, "worst"),
        ],
        "most": [
            one(KEPT, "answers a second on one core, p50", "1/s", PER_SECOND, "p50", True),
            one(ANEW, "of those, each worked out, p50", "1/s", PER_SECOND, "p50", True),
        ],
        "change": [
            one(BORN, "right after a clone is ready, worst", "ms", CHANGE_MS, "worst"),
            one(GONE, "right after a VM is gone, worst", "ms", CHANGE_MS, "worst"),
        ],
    }
    return [verdict for part in PARTS if part in parts for verdict in every[part]]
