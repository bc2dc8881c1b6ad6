"""`copper bench memory`: what a clone costs, byte by byte, and whether what Copper says is what the host lost.

One clone's memory is lost in what the rest of a host does at the same time; so many are made at once, and what the
host has less is divided by them.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from copper.bench import memory as pages
from copper.bench.calls import WORK, Shell, a_shell
from copper.bench.fan import await_standbys, end_all, fan_out
from copper.bench.place import Place
from copper.bench.probe import Probe, a_probe
from copper.bench.progress import Progress
from copper.bench.run import OUT, a_run, facts
from copper.bench.series import Kind, Results, Target, report
from copper.bench.stats import Guest
from copper.image.layers import held_bytes
from copper.model.api import VmStatus
from copper.model.errors import BadInput, CopperError
from copper.model.settings import Settings, from_environment

ROUNDS, CLONES, MEMORY_MIB, WAIT_S = 5, 40, 128, 60.0
SETTLED_S = 2.0
PAGE = 4096 / 1e6  # MB
IDLE, WORKED, DEEP = "idle", "worked", "clone of a clone"
STATES = (IDLE, WORKED, DEEP)
CLUSTER = "held"


def of(state: str, what: str) -> str:
    """A kind."""
    return f"{state}: {what}"


WHAT = {
    "own, as Copper says": "`own` of gc stat, gc-vc usage and the metrics, of each clone; the caller's growth in it",
    "guest pages of its own": "anonymous pages of guest memory that no other process maps (pagemap)",
    "translated code of its own": "the same of what QEMU made of the guest's instructions",
    "QEMU's own": "the same of all else: heap, stacks, data",
    "shared with siblings": "anonymous pages that other processes map as well, before they are divided among them",
    "its part (Pss)": "each page of it, files' and layers' too, divided by the processes that map it",
    "page tables": "VmPTE",
    "lost by the host": "MemAvailable before the clones less that with them, divided by them",
    "accounted for": "own of all VMs, page tables, layers and Copper's process, all of them now less before, divided by"
    " the clones",
    "not accounted for": "the difference of the two, either way, over what was lost; in hundredths",
}
MADE = {
    IDLE: f"{SETTLED_S:g} s after the last answer of the clones of an idle master",
    WORKED: "the same clones after each wrote, hashed and deleted 16 MiB in a file in memory",
    DEEP: "as idle, of clones of one clone, when all others were ended",
}
LATER = of(IDLE, "own, as Copper says, later")


def kinds(wait_s: float) -> tuple[Kind, ...]:
    found = []
    for state in STATES:
        for what, means in WHAT.items():
            unit = "%" if what == "not accounted for" else "MB"
            found.append(Kind(of(state, what), unit, f"{means}; {MADE[state]}"))
        if state == IDLE:
            means = f"of idle clones, {wait_s:g} s after they were measured first"
            found.append(Kind(LATER, "MB", means))
    return tuple(found)


GOALS = (
    Target("own memory of an idle clone, p50", of(IDLE, "own, as Copper says"), 15),
    *(
        Target(f"{state}: not accounted for, p50", of(state, "not accounted for"), 15)
        for state in STATES
    ),
)
COMPARED = {
    "idle, later / at first": (LATER, of(IDLE, "own, as Copper says")),
    "clone of a clone / clone": (
        of(DEEP, "own, as Copper says"),
        of(IDLE, "own, as Copper says"),
    ),
    "worked / idle": (of(WORKED, "own, as Copper says"), of(IDLE, "own, as Copper says")),
}


def main(
    *,
    rounds: int | None = None,
    clones: int = CLONES,
    wait_s: float = WAIT_S,
    out: Path | None = None,
    settings: Settings | None = None,
) -> int:
    """Runs the bench, prints its report, and writes bench-memory.json into `out`.

    `wait_s`: how long idle clones are left alone to see what grows. Returns 0, or 1 when something could not be
    measured. Raises BadInput and whatever keeps a run from beginning. Nothing that it started is left, however it ends.
    """
    settings = settings or from_environment()
    rounds = ROUNDS if rounds is None else rounds
    if rounds < 1:
        raise BadInput(f"--rounds {rounds}", advice="expected 1 or more")
    guest = Guest("micro", MEMORY_MIB)
    results = Results(
        bench="memory",
        asked={"rounds": rounds, "clones": clones, "guest": guest.label, "wait": f"{wait_s:g} s"},
        kinds=kinds(wait_s),
        goals=GOALS,
        compared=COMPARED,
        machine=facts(settings),
    )
    progress = Progress(rounds)
    path = (out or OUT) / "bench-memory.json"
    with a_run(results, report, path, guest, settings, progress) as where:
        progress.begin_rounds()
        for number in range(rounds):
            progress.begin_round(number)
            with results.said(f"round {number + 1}"):
                _Round(where, results, clones, wait_s).run(guest)
    return 1 if results.missing else 0


@dataclasses.dataclass(frozen=True)
class _Host:
    """What a host and its Copper hold at one instant, in MB."""

    available: float
    own: float
    tables: float
    layers: float
    node: float

    @classmethod
    def now(cls, place: Place) -> _Host:
        pids = tuple(place.qemus().values())
        node = pages.memory_of(place.process.pid)
        return cls(
            available=statistics.median(_available() for _ in range(5)),
            own=sum(status.own_bytes for status in place.client.statuses()) / 1e6,
            tables=sum(map(_tables, pids)),
            layers=held_bytes((place.process.pid, *pids)) / 1e6,
            node=node.own + node.tables,
        )

    @property
    def held(self) -> float:
        return self.own + self.tables + self.layers + self.node


def _available() -> float:
    text = Path("/proc/meminfo").read_text()
    (kib,) = re.findall(r"^MemAvailable:\s+(\d+)", text, re.M)
    return int(kib) * 1024 / 1e6


def _tables(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return sum(int(kib) * 1024 for kib in re.findall(r"^VmPTE:\s+(\d+)", text, re.M)) / 1e6


class _Round:
    """One virtual cluster, from its boot to its end."""

    def __init__(self, place: Place, results: Results, clones: int, wait_s: float) -> None:
        self._place, self._results = place, results
        self._clones, self._wait_s = clones, wait_s

    def run(self, guest: Guest) -> None:
        """All states, one after the other."""
        place, client = self._place, self._place.client
        client.create(CLUSTER, guest.image)
        try:
            master = client.boot(CLUSTER).name
            with a_probe(place, CLUSTER) as probe, a_shell(place, master) as shell:
                shell.ask("gc vmid")
                names = self._made(IDLE, shell, probe)
                place.wait(self._wait_s)
                self._add(LATER, [_own(status) for status in self._statuses(names)])
                self._work(names)
                end_all(place, shell)
                (middle,) = fan_out(place, shell, probe, 1).clones
                with a_shell(place, middle) as inside:
                    inside.ask("gc vmid")
                    self._made(DEEP, inside, probe)
        finally:
            client.kill(CLUSTER)
            client.delete(CLUSTER)

    def _made(self, state: str, shell: Shell, probe: Probe) -> list[str]:
        """Clones, and what they cost."""
        await_standbys(self._place)
        before = _Host.now(self._place)
        self._before = before
        names = fan_out(self._place, shell, probe, self._clones).clones
        self._look(state, names, before)
        return names

    def _work(self, names: Sequence[str]) -> None:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for done in pool.map(
                lambda name: self._place.client.run(name, ["sh", "-c", WORK]), names
            ):
                if done.status:
                    raise CopperError(f"a clone could not work: {done.stderr.decode()[-200:]}")
        self._look(WORKED, names, self._before)

    def _look(self, state: str, names: Sequence[str], before: _Host) -> None:
        self._place.wait(SETTLED_S)
        await_standbys(self._place)
        after = _Host.now(self._place)
        statuses = self._statuses(names)
        found = [pages.pages_of(one.pid, one.shape.memory_bytes) for one in statuses]
        memory = [pages.memory_of(one.pid) for one in statuses]
        each = {
            "own, as Copper says": [_own(one) for one in statuses],
            "guest pages of its own": [one.own[pages.GUEST] * PAGE for one in found],
            "translated code of its own": [one.own[pages.CODE] * PAGE for one in found],
            "QEMU's own": [one.own[pages.QEMU] * PAGE for one in found],
            "shared with siblings": [sum(one.shared.values()) * PAGE for one in found],
            "its part (Pss)": [one.share for one in memory],
            "page tables": [one.tables for one in memory],
        }
        for what, values in each.items():
            self._add(of(state, what), values)
        lost = (before.available - after.available) / len(names)
        accounted = (after.held - before.held) / len(names)
        self._results.add(of(state, "lost by the host"), lost)
        self._results.add(of(state, "accounted for"), accounted)
        if lost > 0:
            self._results.add(of(state, "not accounted for"), abs(lost - accounted) / lost * 100)

    def _statuses(self, names: Sequence[str]) -> list[VmStatus]:
        wanted = set(names)
        return [one for one in self._place.client.statuses() if one.name in wanted]

    def _add(self, kind: str, values: Sequence[float]) -> None:
        self._results.add(kind, statistics.median(values))


def _own(status: VmStatus) -> float:
    return status.own_bytes / 1e6
