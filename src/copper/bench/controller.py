"""`copper bench controller`: what the controller does in time, how much of it, among how many, and after a kill.

Nothing leaves this machine: all speak over Unix sockets. Each part runs in processes of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from copper.bench import controller_kinds as kinds
from copper.bench import machine, place, recovery, saturated
from copper.bench.apart import apart
from copper.bench.controller_results import Results, report
from copper.bench.interrupts import ended_in_order
from copper.bench.measured import written_at_end
from copper.bench.place import Place
from copper.bench.progress import Progress
from copper.controller.core import Core
from copper.model.errors import BadInput, CopperError
from copper.model.settings import Settings, from_environment
from copper.model.tickets import Ticket

ROUNDS = 10
ROUND_S = 3.0  # of each of the saturated kinds, in each round
TIMES, PAUSE_S = 500, 0.01  # of decisions, tickets and listings among many VMs


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured, and how much of it."""

    parts: tuple[str, ...] = tuple(kinds.PARTS)
    seconds: float = kinds.SECONDS
    rounds: int = ROUNDS
    round_s: float = ROUND_S
    clients: int = kinds.CLIENTS
    per_second: int = kinds.PER_SECOND
    hosts: int = kinds.HOSTS
    clusters: int = kinds.CLUSTERS
    each: int = kinds.EACH
    times: int = TIMES
    vms: int = kinds.VMS


def main(
    *,
    only: Sequence[str] = (),
    seconds: float | None = None,
    rounds: int | None = None,
    out: Path | None = None,
    settings: Settings | None = None,
    options: Options = Options(),
) -> int:
    """Runs the bench, prints its report, and writes bench-controller.json into `out`.

    Returns 0, or 1 when something could not be measured. Raises BadInput and whatever keeps a run from
    beginning. Nothing that it started is left, however it ends.
    """
    settings = settings or from_environment()
    unknown = sorted(set(only) - set(kinds.PARTS))
    if unknown:
        raise BadInput(f"--only {','.join(unknown)}", advice=f"parts: {', '.join(kinds.PARTS)}")
    options = dataclasses.replace(
        options,
        parts=tuple(part for part in kinds.PARTS if part in only) if only else options.parts,
        seconds=options.seconds if seconds is None else seconds,
        rounds=options.rounds if rounds is None else rounds,
    )
    if options.rounds < 1 or options.seconds <= 0:
        raise BadInput("a bench of nothing", advice="--rounds and --seconds of 1 or more")
    out = out or Path("bench")
    out.mkdir(parents=True, exist_ok=True)
    keep = place.keep_folder(settings)
    results = Results(
        parts=list(options.parts),
        options={
            key: value for key, value in dataclasses.asdict(options).items() if key != "parts"
        },
        machine=machine.controller_facts(keep),
    )
    progress = Progress(options.rounds)
    with ended_in_order(), written_at_end(results, out / "bench-controller.json", report, progress):
        with place.run_folders(keep) as (folder, sockets):
            run = Run(settings, options, results, progress, keep, folder, sockets)
            for part in options.parts:
                with run.said(part), progress.step(part):
                    run.parts[part]()
    return 1 if results.missing else 0


class Run:
    """One run of the bench: its parts, each by name."""

    def __init__(
        self,
        settings: Settings,
        options: Options,
        results: Results,
        progress: Progress,
        keep: Path,
        folder: Path,
        sockets: Path,
    ) -> None:
        self.parts: dict[str, Callable[[], None]] = {
            "tickets": self.tickets,
            "saturated": self.saturated,
            "scale": self.scale,
            "recovery": self.recovery,
        }
        self._settings = settings
        self._options = options
        self._results = results
        self._progress = progress
        self._keep, self._folder, self._sockets = keep, folder, sockets
        self._log = folder / "bench.log"

    @contextlib.contextmanager
    def said(self, part: str) -> Iterator[None]:
        """A part that fails is written down, and the others go on."""
        try:
            yield
        except CopperError as error:
            self._results.missing[part] = str(error)

    @contextlib.contextmanager
    def _fake_node(self) -> Iterator[tuple[Place, dict[str, object]]]:
        """A node of one fake host with a VM that tickets are asked for, and what clients are told of it."""
        settings = dataclasses.replace(self._settings, fake=True)
        with place.a_place(settings, self._keep, self._folder, self._sockets) as where:
            where.client.create(recovery.CLUSTER, recovery.FAKE_IMAGE)
            vm = where.client.boot(recovery.CLUSTER)
            order: dict[str, object] = {
                "socket": str(where.settings.api_socket),
                "vm": vm.name,
                "request": saturated.REQUEST.model_dump(),
                "clients": self._options.clients,
            }
            yield where, order

    def tickets(self) -> None:
        """At a steady rate; before and after it, bare commits at the same rate of commits."""
        bare, options = self._folder / "floor.sqlite", self._options
        row = asyncio.run(saturated.a_row(bare))

        def floor() -> None:
            # each ticket is two commits: its request and its release
            paced = saturated.paced_commits(bare, row, 2 * options.per_second, options.seconds / 6)
            self._results.add(kinds.FLOOR, *asyncio.run(paced))

        with self._fake_node() as (_, order):
            steady = {**order, "per_second": options.per_second, "seed": 1}
            apart("open-loop", {**steady, "seconds": 2}, self._log)  # what is done once is done
            floor()
            found = apart("open-loop", {**steady, "seconds": options.seconds}, self._log)
            floor()
        self._results.add(kinds.GRANTED, *found["granted_ms"])
        self._results.add(kinds.RELEASED, *found["released_ms"])

    def saturated(self) -> None:
        """As many as can be, all kinds in turn."""
        bare = self._folder / "bare.sqlite"
        with self._fake_node() as (_, order):

            async def rounds() -> None:
                row = await saturated.a_row(bare)
                async with saturated.a_core(self._folder / "core.sqlite") as (core, vm):
                    for number in range(self._options.rounds):
                        self._progress.begin_round(number)
                        await self._saturated_round(row, core, vm, bare, order)

            asyncio.run(rounds())

    async def _saturated_round(
        self, row: Ticket, core: Core, vm: str, bare: Path, order: dict[str, object]
    ) -> None:
        seconds, clients = self._options.round_s, self._options.clients
        commits = saturated.bare_commits(bare, row, seconds)
        inside = await saturated.in_process(core, vm, clients, seconds)
        # the core here has nothing to do meanwhile
        found = await asyncio.to_thread(
            apart, "closed-loop", {**order, "seconds": seconds}, self._log
        )
        http = found["operations"] / found["seconds"]
        self._results.add(kinds.BARE, commits)
        self._results.add(kinds.IN_PROCESS, inside)
        self._results.add(kinds.OVER_HTTP, http)
        self._results.add(kinds.IN_PROCESS_SHARE, inside / commits)
        self._results.add(kinds.OVER_HTTP_SHARE, http / commits)

    def scale(self) -> None:
        """Among many hosts and VMs."""
        options = self._options
        size = {"hosts": options.hosts, "clusters": options.clusters, "each": options.each}
        path = {"path": str(self._folder / "scale.sqlite")}
        alone = apart("hosts", size, self._log)
        found = apart(
            "fill", {**size, **path, "times": options.times, "pause_s": PAUSE_S}, self._log
        )
        opened = apart("open", path, self._log)
        for kind, key in (
            (kinds.FORK_LARGE, "fork_s"),
            (kinds.DECISION, "decision_ms"),
            (kinds.GRANTED_LARGE, "granted_ms"),
            (kinds.LISTING, "listing_ms"),
            (kinds.LISTING_PAGE, "page_ms"),
        ):
            self._results.add(kind, *found[key])
        self._results.add(kinds.START, found["start_s"])
        self._results.add(kinds.OPEN, opened["open_s"])
        self._results.add(kinds.MEMORY, found["memory_mb"])
        self._results.add(kinds.MEMORY_HOSTS, alone["memory_mb"])
        self._results.add(kinds.MEMORY_BOOK, opened["memory_mb"])

    def recovery(self) -> None:
        """After kill -9: with real VMs where their image is there, else with fake ones."""
        guest = recovery.REAL
        real = (self._keep / "images" / guest.image).exists()
        settings = dataclasses.replace(self._settings, fake=not real)
        if real:
            place.ready_template(settings, self._keep, self._sockets, guest, self._progress)
        else:
            self._results.notes.append(
                f"recovery: fake VMs, for {guest.image} is not there: copper bench fork builds it"
            )
        image = guest.image if real else recovery.FAKE_IMAGE
        with place.a_place(settings, self._keep, self._folder, self._sockets) as where:
            with self._progress.step(f"{self._options.vms} VMs of {image}"):
                before = recovery.populate(where, image, self._options.vms)
            for number in range(self._options.rounds):
                self._progress.begin_round(number)
                where.rest(quiet=True)  # guests that were just found again have something to do
                done = recovery.kill(where, before)
                self._results.add(kinds.SERVES, done.serves_ms)
                self._results.add(kinds.FOUND, done.found_ms)
                self._results.add(kinds.LOST, done.lost)
                self._results.add(kinds.TWICE, done.twice)
