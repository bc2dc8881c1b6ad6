"""`copper bench warm`: how much slower a warm clone is than a VM that was booted cold, at four works.

Both have the same guest, processors and memory; the clone's master is measured beside them. A round has a new clone,
and a new program in each: where a process's memory lies makes it some percent faster or slower for as long as it lives.
That holds for QEMUs too, and a clone's is where its master's is: after some rounds the master and the cold VM are new.
The first time warms it and does not count. Then they take turns at each work, the others idle meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from copper.bench import machine, works
from copper.bench.calls import Shell
from copper.bench.cold import Cold, a_cold_vm
from copper.bench.peers import Peers
from copper.bench.place import Place
from copper.bench.progress import Progress
from copper.bench.run import OUT, a_run, facts
from copper.bench.series import Kind, Results, Target, report
from copper.bench.stats import Guest
from copper.client.commands import beginning
from copper.image.build import recipes
from copper.model.errors import BadInput, CopperError
from copper.model.settings import Settings, from_environment
from copper.vmm.capabilities import probe_qemu

ROUNDS = 30
RECIPE = "debian-12-dev"  # the smallest whose Python has all of its library
CLUSTER = "warm"
SLOWER = 1.05  # at most, of a clone
TOGETHER = 6  # rounds with the same master and cold VM, which takes most of a minute to boot
TURNS = 4  # of each VM at each work in a round; the least counts, for what disturbs only lengthens

CLONE, MASTER, COLD = "clone", "its master", "cold-booted"
WORKS = {
    "processor loop": ("loop", f"{works.LOOP_TIMES:,} times around a loop of Python"),
    "memory walk": (
        "walk",
        f"a byte of each page of {works.WALK_MIB} MiB, {len(works.WALK_STRIDES)} times written and as often read",
    ),
    "Python start": (
        "python",
        f"`python3 -c pass`, {works.STARTS} in a row until the last has ended",
    ),
    "SQLite": (
        "sqlite",
        f"a transaction that replaces {works.ROWS:,} rows of a table in a file on the disk, and a query over them",
    ),
}
NEEDED = ["python3", "-c", "import sqlite3"]
PROGRAM = ["python3", "-c", Path(works.__file__).read_text()]


def of(work: str, vm: str, time: str = "") -> str:
    """A kind."""
    return f"{work}: {vm}{time}"


FIRST = ", first time"
KINDS = (
    *(
        Kind(of(work, vm), "ms", f"{means}; by the guest's clock, the least of all turns")
        for work, (_, means) in WORKS.items()
        for vm in (COLD, CLONE, MASTER)
    ),
    *(
        Kind(
            of(work, vm, FIRST),
            "ms",
            f"{means}; the time that warms a new program and does not count",
        )
        for work, (_, means) in WORKS.items()
        for vm in (COLD, CLONE)
    ),
)
COMPARED = {
    of(work, f"{vm} / {COLD}", time): (of(work, vm, time), of(work, COLD, time))
    for vm, time in ((CLONE, ""), (MASTER, ""), (CLONE, FIRST))
    for work in WORKS
}
GOALS = tuple(
    Target(f"{work}, a warm clone over a cold boot, p50", of(work, CLONE), SLOWER, of(work, COLD))
    for work in WORKS
)


def main(
    *,
    rounds: int | None = None,
    image: str = RECIPE,
    turns: int = TURNS,
    out: Path | None = None,
    settings: Settings | None = None,
) -> int:
    """Runs the bench, prints its report, and writes bench-warm.json into `out`.

    `image` is the guests' recipe; its guest must have Python 3 with sqlite3. Returns 0, or 1 when something could
    not be measured. Raises BadInput and whatever keeps a run from beginning. Nothing that it started is left, however
    it ends.
    """
    settings = settings or from_environment()
    rounds = ROUNDS if rounds is None else rounds
    if rounds < 1:
        raise BadInput(f"--rounds {rounds}", advice="expected 1 or more")
    guest = Guest(image, recipes.load(image).memory_mib)
    results = Results(
        bench="warm",
        asked={"rounds": rounds, "turns": turns, "guest": guest.label},
        kinds=KINDS,
        goals=GOALS,
        compared=COMPARED,
        machine=facts(settings),
    )
    progress = Progress(rounds)
    path = (out or OUT) / "bench-warm.json"
    with a_run(results, report, path, guest, settings, progress) as where:
        with results.said("the four works"):
            _Run(where, guest, results, turns).run(rounds, progress)
    return 1 if results.missing else 0


class _Run:
    """All rounds, in one virtual cluster beside one cold-booted VM."""

    def __init__(self, where: Place, guest: Guest, results: Results, turns: int) -> None:
        self._place = where
        self._guest = guest
        self._results = results
        self._turns = turns

    def run(self, rounds: int, progress: Progress) -> None:
        client = self._place.client
        client.create(CLUSTER, self._guest.image)
        template = self._place.template
        assert template is not None
        peers = Peers(probe_qemu(self._place.settings), template, self._place.folder)
        self._results.load_before = machine.load_average()
        for first in range(0, rounds, TOGETHER):
            master = self._master()
            with ExitStack() as stack:
                with progress.step("booting a cold one"):
                    cold = stack.enter_context(a_cold_vm(peers))
                if not first:
                    progress.begin_rounds()
                for number in range(first, min(rounds, first + TOGETHER)):
                    progress.begin_round(number)
                    self._place.rest(quiet=True)
                    (clone,) = client.clone_vm(master, count=1)
                    self._beside(cold, clone.name, master, number)
                    client.end(clone.name)
            client.kill(CLUSTER)

    def _master(self) -> str:
        """A new one. Raises CopperError where its guest cannot do the works."""
        client = self._place.client
        master = client.boot(CLUSTER).name
        if (done := client.run(master, NEEDED)).status:
            why = done.stderr.decode(errors="replace").strip()[-200:]
            raise CopperError(f"{' '.join(NEEDED)} in a guest of {self._guest.recipe}: {why}")
        return master

    def _beside(self, cold: Cold, clone: str, master: str, number: int) -> None:
        with ExitStack() as stack:
            programs = {
                CLONE: stack.enter_context(self._program(clone)),
                MASTER: stack.enter_context(self._program(master)),
                COLD: stack.enter_context(cold.program(PROGRAM)),
            }
            self._round(programs, number)

    @contextmanager
    def _program(self, vm: str) -> Iterator[Shell]:
        with self._place.client.stream(vm, "exec") as stream:
            stream.tell(beginning(PROGRAM))
            yield Shell(vm, stream)

    def _round(self, programs: dict[str, Shell], number: int) -> None:
        """Who is first and who is last change places with every turn."""
        self._place.rest(quiet=True)
        took: dict[str, list[float]] = {}
        for work, (name, _) in WORKS.items():
            for turn in range(1 + self._turns):
                time = "" if turn else FIRST
                order = list(programs)
                if (number + turn) % 2:
                    order.reverse()
                for vm in order:
                    took.setdefault(of(work, vm, time), []).append(float(programs[vm].ask(name)))
        for kind in KINDS:
            self._results.add(kind.name, min(took[kind.name]))
