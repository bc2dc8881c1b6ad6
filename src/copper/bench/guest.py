"""`copper bench guest`: what calls of the guest API cost in real guests: gc, a barrier, a join, the agent's memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from copper.bench import guest_kinds as kinds
from copper.bench import guest_programs as programs
from copper.bench import machine
from copper.bench.calls import Shell, a_shell
from copper.bench.guest_results import Results, report
from copper.bench.place import Place
from copper.bench.progress import Progress
from copper.bench.run import OUT, a_run, facts
from copper.bench.stats import Guest
from copper.image.build import recipes
from copper.model.errors import BadInput, CopperError, TimedOut
from copper.model.names import vm_name
from copper.model.settings import Settings, from_environment

ROUNDS = 30
CLUSTER = "guest"
FREE_S = 30.0
# prints the hundredths of a second that starting each program so often took, the second one first in odd rounds
TURN = (
    "read a _ </proc/uptime; i=0; while [ $i -lt {times} ]; do {first}; i=$((i+1)); done >/dev/null;"
    " read b _ </proc/uptime; i=0; while [ $i -lt {times} ]; do {second}; i=$((i+1)); done >/dev/null;"
    " read c _ </proc/uptime; echo $a $b $c"
)
# what a shell in the caller is told; it is in the clones as well, where it goes on
FORK = (
    "t=$(gc rt {clones} {clones} 1 60000 | awk '{{print $2}}'); gc clone $t >/tmp/me; read me </tmp/me;"
    " if [ $me != 0 ]; then gc sync; exec gc join $((me % 256)) --file /etc/hostname; fi;"
)
LOAD = (
    "i=0; while [ $i -lt {times} ]; do gc list >/dev/null & i=$((i+1)); done; wait;"
    " awk '/VmHWM/ {{print $2}}' /proc/$(pidof gridcentric-agent)/status"
)


def main(
    *,
    rounds: int | None = None,
    image: str = "micro",
    clones: int = kinds.CLONES,
    out: Path | None = None,
    settings: Settings | None = None,
) -> int:
    """Runs the bench, prints its report, and writes bench-guest.json into `out`.

    Returns 0, or 1 when something could not be measured. Raises BadInput and whatever keeps a run from
    beginning. Nothing that it started is left, however it ends.
    """
    settings = settings or from_environment()
    rounds = ROUNDS if rounds is None else rounds
    if rounds < 1:
        raise BadInput(f"--rounds {rounds}", advice="expected 1 or more")
    guest = Guest(image, recipes.load(image).memory_mib)
    results = Results(
        rounds=rounds,
        image=guest.label,
        clones=clones,
        machine=facts(settings),
    )
    progress = Progress(rounds)
    path = (out or OUT) / "bench-guest.json"
    with a_run(results, report, path, guest, settings, progress) as where:
        progress.begin_rounds()
        _Run(where, guest, results, progress).run()
    return 1 if results.missing else 0


class _Run:
    """One run, in one virtual cluster whose master lives as long as it."""

    def __init__(self, where: Place, guest: Guest, results: Results, progress: Progress) -> None:
        self._place = where
        self._guest = guest
        self._results = results
        self._progress = progress

    def run(self) -> None:
        """All rounds; what fails is written down, and the rest goes on."""
        client = self._place.client
        client.create(CLUSTER, self._guest.image)
        master = client.boot(CLUSTER).name
        if recipes.load(self._guest.recipe).packages_from:
            with self._said(kinds.BARE):
                self._bindings(master)
        with a_shell(self._place, master) as shell:
            self._results.load_before = machine.load_average()
            for number in range(self._results.rounds):
                self._progress.begin_round(number)
                with self._said(kinds.BEYOND):
                    self._vmid(shell, number)
                with self._said(kinds.JOIN):
                    self._join(shell)
            with self._said(kinds.BARRIER):
                self._barriers(shell)
            with self._said(kinds.MEMORY):
                kib = int(shell.ask(LOAD.format(times=kinds.AT_ONCE)))
                self._results.add(kinds.MEMORY, kib * 1024 / 1e6)

    def _bindings(self, master: str) -> None:
        """All rounds of calls by programs that are there side by side, one after the other, each first in turn."""
        programs.furnish(self._place, master)
        with ExitStack() as stack:
            shells = [
                (
                    program.name,
                    stack.enter_context(programs.a_program(self._place, master, program)),
                )
                for program in programs.PROGRAMS
            ]
            for number in range(self._results.rounds):
                self._progress.begin_round(number)
                self._place.rest(quiet=True)
                first = number % len(shells)
                took = {
                    name: float(shell.ask(str(kinds.CALLS)))
                    for name, shell in shells[first:] + shells[:first]
                }
                bare = took.pop(programs.BARE)
                self._results.add(kinds.BARE, bare)
                for name, median in took.items():
                    self._results.add(kinds.BINDINGS[name], median - bare)

    def _vmid(self, shell: Shell, number: int) -> None:
        self._place.rest(quiet=True)
        programs = ["/bin/true", "gc vmid"]
        first, second = programs if number % 2 == 0 else reversed(programs)
        turn = TURN.format(times=kinds.IN_A_ROW, first=first, second=second)
        a, b, c = (float(word) for word in shell.ask(turn).split())
        each = [(b - a) * 1000 / kinds.IN_A_ROW, (c - b) * 1000 / kinds.IN_A_ROW]
        true, vmid = each if number % 2 == 0 else reversed(each)
        self._results.add(kinds.TRUE, true)
        self._results.add(kinds.VMID, vmid)
        self._results.add(kinds.BEYOND, vmid - true)

    def _join(self, shell: Shell) -> None:
        """All clones are at a barrier; then each joins."""
        clones = self._results.clones
        shell.tell(FORK.format(clones=clones) + " echo forked")
        self._expect(shell, "forked")
        self._place.rest(quiet=True)
        shell.tell("gc sync $t 60000; echo synced; gc join $t | wc -l")
        self._expect(shell, "synced")
        began = time.perf_counter()
        self._expect(shell, str(clones))
        self._results.add(kinds.JOIN, (time.perf_counter() - began) * 1000)
        while len(self._place.client.statuses()) > 1 or self._clones_left():
            if time.perf_counter() - began > FREE_S:
                raise TimedOut(f"clones are there {FREE_S:g} s after they joined")
            self._place.wait(0.005)
        self._results.add(kinds.JOIN_FREE, (time.perf_counter() - began) * 1000)

    def _clones_left(self) -> list[str]:
        """Clones' records at the host: they go when the process has."""
        names = (path.stem for path in self._place.settings.vms_dir.glob("*.json"))
        return [name for name in names if name != vm_name(CLUSTER, 0)]

    def _barriers(self, shell: Shell) -> None:
        """All rounds of a barrier, among the same clones."""
        client, clones = self._place.client, self._results.clones
        first = client.cluster(CLUSTER).next_vmid
        shell.tell(
            f"t=$(gc rt {clones} {clones} 1 60000 | awk '{{print $2}}'); gc clone $t >/tmp/me;"
            " read me </tmp/me; [ $me = 0 ] && echo forked"
        )
        self._expect(shell, "forked")
        names = [vm_name(CLUSTER, first + number) for number in range(clones)]
        with ExitStack() as stack:
            shells = [stack.enter_context(a_shell(self._place, name)) for name in names]
            for number in range(self._results.rounds):
                self._progress.begin_round(number)
                self._barrier(shell, shells)

    def _barrier(self, shell: Shell, shells: list[Shell]) -> None:
        self._place.rest(quiet=True)
        began = time.perf_counter()
        for one in (*shells, shell):
            one.tell("echo word")
        for one in (*shells, shell):
            self._expect(one, "word")
        self._results.add(kinds.TRIP, (time.perf_counter() - began) * 1000)
        for one in shells:
            one.tell("echo waits; gc sync; echo through")
        for one in shells:
            self._expect(one, "waits")
        self._place.rest(quiet=True)  # now all are there
        began = time.perf_counter()
        shell.tell("gc sync $t 60000; echo through")
        self._expect(shell, "through")
        self._results.add(kinds.BARRIER_CALLER, (time.perf_counter() - began) * 1000)
        for one in shells:
            self._expect(one, "through")
        self._results.add(kinds.BARRIER, (time.perf_counter() - began) * 1000)

    def _expect(self, shell: Shell, word: str) -> None:
        said = shell.listen()
        if said.strip() != word:
            raise CopperError(f"{shell.vm} said {said!r}, not {word!r}")

    @contextlib.contextmanager
    def _said(self, kind: str) -> Iterator[None]:
        try:
            yield
        except CopperError as error:
            self._results.missing[kind] = str(error)
