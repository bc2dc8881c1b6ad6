"""`copper bench fanout`: what forks into many cost, and one of them step by step.

Everything is measured in turn, round by round, in a Copper that writes a trace (copper.wire.trace): a span costs it two
readings of the clock, some thirty times for a clone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from copper.bench import fanout_kinds as kinds
from copper.bench import timeline
from copper.bench.calls import BUSY_BEGINS, Shell, a_shell
from copper.bench.fan import Fanned, await_standbys, end_all, fan_out
from copper.bench.memory import Memory, memory_of
from copper.bench.place import Place, processor_seconds
from copper.bench.probe import PORT, Probe, a_probe, mesh_program
from copper.bench.progress import Progress
from copper.bench.run import OUT, a_run, facts
from copper.bench.series import Results, report
from copper.bench.stats import Guest
from copper.model.errors import BadInput, CopperError
from copper.model.settings import Settings, from_environment
from copper.net.addresses import GATEWAY, ipv4_of

ROUNDS, QUICK = 10, 1
MEMORY_MIB = 128
SETTLED_S = 1.0
DEADLINE_S = 60.0
MESH = "/dev/shm/mesh"


def main(
    *,
    rounds: int | None = None,
    sizes: Sequence[int] | None = None,
    many: int = 60,
    pairs: int = 16,
    forks_only: bool = False,
    out: Path | None = None,
    settings: Settings | None = None,
) -> int:
    """Runs the bench, prints its report, writes bench-fanout.json, fanout.json and fanout.png.

    `sizes`: of the forks that are measured with idle and busy masters. `many`: of those that are looked into;
    it is one of the sizes. `pairs`: of those that all ping each other, as `many` do.
    Returns 0, or 1 when something could not be measured. Raises BadInput and whatever keeps a run from
    beginning. Nothing that it started is left, however it ends.
    """
    settings = settings or from_environment()
    rounds = ROUNDS if rounds is None else rounds
    rows = kinds.Rows(tuple(sorted(set(sizes or kinds.SIZES))), many, pairs)
    if rounds < 1:
        raise BadInput(f"--rounds {rounds}", advice="expected 1 or more")
    guest = Guest("micro", MEMORY_MIB)
    out = out or OUT
    results = Results(
        bench="fanout",
        asked={"rounds": rounds, "guest": guest.label, "sizes": " ".join(map(str, rows.sizes))},
        kinds=rows.kinds,
        goals=rows.goals,
        compared=rows.compared,
        machine=facts(settings),
    )
    progress = Progress(rounds)
    path = out / "bench-fanout.json"
    with a_run(results, report, path, guest, settings, progress, traced=True) as where:
        progress.begin_rounds()
        run = _Run(where, guest, results, rows, mesh_program(where.folder))
        for number in range(rounds):
            progress.begin_round(number)
            for load in kinds.LOADS:
                progress.doing(f"{load}: {results.asked['sizes']} clones")
                with results.said(f"{load} masters"):
                    run.forks(load)
            if not forks_only:
                progress.doing(f"{many} clones in other ways")
                with results.said("many"):
                    run.many()
        if run.drawn:
            timeline.keep(run.drawn, out, results.machine, progress)
    return 1 if results.missing else 0


class _Run:
    """All rounds; each part has a virtual cluster of its own."""

    def __init__(
        self, where: Place, guest: Guest, results: Results, rows: kinds.Rows, mesh: bytes
    ) -> None:
        self._place, self._guest, self._results = where, guest, results
        self._rows, self._mesh = rows, mesh
        self.drawn: timeline.Fork | None = None

    @contextmanager
    def _booted(self, cluster: str) -> Iterator[tuple[Shell, Probe]]:
        client = self._place.client
        client.create(cluster, self._guest.image)
        try:
            master = client.boot(cluster).name
            with ExitStack() as stack:
                probe = stack.enter_context(a_probe(self._place, cluster))
                shell = stack.enter_context(a_shell(self._place, master))
                shell.ask("gc vmid")  # the first one also finds the program in the guest's files
                yield shell, probe
        finally:
            client.kill(cluster)
            client.delete(cluster)

    def forks(self, load: str) -> None:
        """`gc clone` of each size; the clones of one are ended before the next."""
        results, rows, client = self._results, self._rows, self._place.client
        with self._booted(f"fan-{load}") as (shell, probe):
            if load == "busy":
                shell.ask(BUSY_BEGINS)
            for count in rows.sizes:
                self._place.rest(quiet=load == "idle")
                with results.said(rows.last(count, load)):
                    before = self._processors()
                    fanned = fan_out(self._place, shell, probe, count)
                    after = self._processors()
                    results.add(rows.last(count, load), fanned.last_ms)
                    pause = client.status(shell.vm).last_pause_ms or 0
                    results.add(rows.pause(count, load), pause)
                    if load == "idle" and count in (1, rows.many):
                        self._look_into(fanned, before, after)
                end_all(self._place, shell)

    def _processors(self) -> tuple[float, float]:
        """Seconds that Copper's process has used, and all its QEMUs that are there."""
        place = self._place
        qemus = sum(processor_seconds(pid) for pid in place.qemus().values())
        return processor_seconds(place.process.pid), qemus

    def _look_into(
        self, fanned: Fanned, before: tuple[float, float], after: tuple[float, float]
    ) -> None:
        """What is looked at in forks of an idle master: steps, processors, memory."""
        results, rows, many = self._results, self._rows, len(fanned.clones) > 1
        self._place.wait(SETTLED_S)  # the trace is written, and the clones are at rest
        events = timeline.during(Path(self._place.settings.trace), fanned.began, fanned.ended)
        clones = set(fanned.clones)
        for event in events:
            if event.name == "identity" and event.line in clones and event.ns is not None:
                results.add(rows.identity_many if many else kinds.IDENTITY, event.ns / 1e6)
        if not many:
            return
        results.add(rows.returned, fanned.returned_ms)
        node, qemus = (a - b for a, b in zip(after, before, strict=True))
        results.add(rows.cpu, (node + qemus) * 1000 / len(clones))
        results.add(kinds.CPU_NODE, node * 1000 / len(clones))
        self.drawn = timeline.Fork(fanned, events)
        found = [memory_of(self._place.client.status(name).pid) for name in fanned.clones]
        for kind, of in (
            (kinds.OWN, "own"),
            (kinds.ANON, "anon"),
            (kinds.PRIVATE, "private"),
            (kinds.SHARE, "share"),
            (kinds.TABLES, "tables"),
        ):
            results.add(kind, _middle(found, of))

    def many(self) -> None:
        """60 onto standbys, ended, grown again; and machines that ping each other."""
        results, rows = self._results, self._rows
        with self._booted("fan-many") as (shell, probe):
            fan_out(self._place, shell, probe, 1)  # as the idle master has forked before its 60
            end_all(self._place, shell)
            with results.said(rows.standbys):
                self._place.rest(quiet=True)
                ticket = shell.ask(f"gc rt {rows.many} {rows.many} 1 60000").split()[-1]
                await_standbys(self._place)
                fanned = fan_out(self._place, shell, probe, rows.many, ticket=ticket)
                results.add(rows.standbys, fanned.last_ms)
            with results.said(rows.ended):
                self._place.rest(quiet=True)
                results.add(rows.ended, end_all(self._place, shell))
            with results.said(rows.again):
                results.add(rows.again, fan_out(self._place, shell, probe, rows.many).last_ms)
            end_all(self._place, shell)
            self._furnish(shell.vm)
            self._all_ping_all(
                shell, probe, 1
            )  # what the first of all does: finds and translates the program
            end_all(self._place, shell)
            for count in sorted({rows.pairs, rows.many}):
                with results.said(kind := rows.mesh(count)):
                    self._place.rest(quiet=True)
                    results.add(kind, self._all_ping_all(shell, probe, count))
                end_all(self._place, shell)

    def _furnish(self, vm: str) -> None:
        text = f"cat >{MESH} && chmod 755 {MESH}"
        done = self._place.client.run(vm, ["sh", "-c", text], stdin=self._mesh)
        if done.status:
            raise CopperError(f"in {vm}: {done.stderr.decode().strip()[-200:]}")

    def _all_ping_all(self, shell: Shell, probe: Probe, count: int) -> float:
        cluster = shell.vm.rpartition("-")[0]
        first = self._place.client.cluster(cluster).next_vmid
        vmids = (0, *range(first, first + count))
        words = " ".join(map(ipv4_of, vmids))
        list(probe.reported())
        began = time.perf_counter()
        shell.tell(f"gc clone {count} >/dev/null; {MESH} {GATEWAY} {PORT} {words}; echo $?")
        at = probe.await_reports(count + 1, DEADLINE_S)
        if (status := shell.listen()) != "0":
            raise CopperError(f"mesh in {shell.vm} ended with {status}")
        return (at - began) * 1000


def _middle(found: Sequence[Memory], field: str) -> float:
    return float(statistics.median(getattr(one, field) for one in found))
