"""`copper bench fork`: what a fork costs, beside what else gives a running guest, in one run.

All kinds are measured in turn, round by round, so that whatever else the machine does falls on all of them alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from copper.bench import kinds, machine, place
from copper.bench.beside import Beside, versions
from copper.bench.criu import kept_as_found
from copper.bench.interrupts import ended_in_order
from copper.bench.memory import Floor
from copper.bench.place import Place, Template
from copper.bench.progress import Progress, clock
from copper.bench.results import Results
from copper.bench.session import Session
from copper.bench.stats import Guest, Load, Samples
from copper.bench.table import report
from copper.image.build import recipes as recipe_files
from copper.model.errors import BadInput
from copper.model.settings import Settings, from_environment
from copper.vmm.capabilities import probe_qemu

RUNS, QUICK_RUNS = 30, 3
SIZES = (256, 1024, 2048)
RECIPES = ("micro", "debian-12")
ALL_PEERS = "all"
LOADS: tuple[Load, ...] = ("idle", "busy")
# seconds of one round on 2 cores under emulation, to say beforehand how long a run takes
MICRO_S, OTHER_S, CHAIN_S, PEER_S, PREPARATION_S = 12, 20, 6, 4, 20


def main(
    *,
    runs: int | None = None,
    sizes: Sequence[int] | None = None,
    out: Path | None = None,
    recipes: Sequence[str] | None = None,
    peers: Collection[str] = (),
    quick: bool = False,
    settings: Settings | None = None,
) -> int:
    """Runs the bench, prints its report, and writes bench.json and bench.png into `out`.

    `micro` is measured at each of `sizes` (MiB), other recipes at their own. `peers`: which of
    kinds.ON_REQUEST are measured besides, or "all". `quick`: few rounds with the smallest guest. Returns 0,
    or 1 when something of Copper's own could not be measured. Raises BadInput and whatever keeps a run
    from beginning. Nothing that it started is left, however it ends.
    """
    settings = settings or from_environment()
    runs = runs if runs is not None else QUICK_RUNS if quick else RUNS
    if runs < 1:
        raise BadInput(f"--runs {runs}", advice="expected 1 or more")
    for name in peers:
        if name not in (*kinds.ON_REQUEST, ALL_PEERS):
            expected = f"expected {', '.join(kinds.ON_REQUEST)} or {ALL_PEERS}"
            raise BadInput(f"--peer {name}", advice=expected)
    asked = kinds.ON_REQUEST if ALL_PEERS in peers else peers
    sizes = sorted(set(sizes or (SIZES[:1] if quick else SIZES)))
    recipes = list(recipes or (RECIPES[:1] if quick else RECIPES))
    out = out or Path("bench")
    out.mkdir(parents=True, exist_ok=True)
    guests = _guests(sizes, recipes)
    results = Results(
        runs=runs,
        sizes=list(sizes),
        recipes=recipes,
        machine=machine.facts(settings, probe_qemu(settings)),
        started=time.time(),
        load_before=machine.load_average(),
        samples=Samples(),
    )
    progress = Progress(runs)
    try:
        with ended_in_order():
            _measure(settings, guests, asked, results, progress)
    except KeyboardInterrupt:
        results.ended = "it was interrupted"
        raise
    finally:
        results.seconds = time.time() - results.started
        results.load_after = machine.load_average()
        if results.samples.guests:
            _show(results, out, progress)
    ours = [lack for lack in results.samples.missing if not kinds.is_peer(lack.kind)]
    return 1 if ours or results.ended else 0


def _guests(sizes: Sequence[int], recipes: Sequence[str]) -> list[Guest]:
    guests = []
    for name in recipes:
        own = recipe_files.load(name).memory_mib
        guests += [Guest(name, size) for size in (sizes if name == "micro" else [own])]
    return guests


def expected_s(guests: Sequence[Guest], runs: int, peers: int = 0) -> float:
    """A guess, made before anything was measured. `peers`: so many on request."""
    each = sum(MICRO_S if guest.recipe == "micro" else OTHER_S for guest in guests) + CHAIN_S
    each += PEER_S * peers * len(guests)
    return runs * each + PREPARATION_S * len(guests)


def _measure(
    settings: Settings,
    guests: list[Guest],
    asked: Collection[str],
    results: Results,
    progress: Progress,
) -> None:
    progress.say(
        f"{results.runs} rounds with {', '.join(guest.label for guest in guests)}: about"
        f" {clock(expected_s(guests, results.runs, len(asked)))} on 2 cores under emulation,"
        " and longer when images have to be built first"
    )
    keep = place.keep_folder(settings)
    with place.run_folders(keep) as (folder, sockets), contextlib.ExitStack() as undo:
        templates = [
            place.ready_template(settings, keep, sockets, guest, progress) for guest in guests
        ]
        # what the first template's guest has shown of KVM
        results.machine = machine.facts(
            dataclasses.replace(settings, state_dir=keep), probe_qemu(settings)
        )
        results.machine |= versions(asked)
        with progress.step("booting the peers"):
            qemu, samples = probe_qemu(settings), results.samples
            undo.enter_context(kept_as_found())
            peers = {
                template.guest: Beside(qemu, template, folder, sockets, samples, asked)
                for template in templates
            }
        floor = Floor()
        undo.callback(floor.close)
        where = undo.enter_context(place.a_place(settings, keep, folder, sockets))
        results.load_before = machine.load_average()
        progress.begin_rounds()
        for number in range(results.runs):
            progress.begin_round(number)
            for template in templates:
                _round(where, results.samples, template, peers[template.guest], floor, progress)
            if where.process.poll() is not None:
                results.ended = f"the bench's Copper ended in round {number + 1}"
                return
            results.rounds = number + 1


def _round(
    where: Place,
    samples: Samples,
    template: Template,
    peers: Beside,
    floor: Floor,
    progress: Progress,
) -> None:
    guest = template.guest
    for load in LOADS:
        progress.doing(f"{guest.label}, {load}")
        # one size will do for what does not depend on it
        deep = load == "idle" and guest == min(samples.guests or [guest], key=_by_size)
        Session(where, samples, guest, load).run(deep=deep)
    progress.doing(f"{guest.label}, peers")
    peers.round()
    for kind, size in (
        (kinds.COPY_ALL, template.manifest.shape.memory_bytes),
        (kinds.COPY_USED, template.manifest.memory_bytes),
    ):
        samples.add(guest, "-", kind, floor.copy_ms(size))


def _by_size(guest: Guest) -> tuple[bool, int]:
    return guest.recipe != "micro", guest.memory_mib


def _show(results: Results, out: Path, progress: Progress) -> None:
    results.write(out / "bench.json")
    print(report(results), flush=True)
    try:
        from copper.bench.picture import draw

        draw(results, out / "bench.png")
    except ImportError:
        progress.say("no picture: matplotlib is not installed")
    progress.say(f"written: {out / 'bench.json'}, {out / 'bench.png'}")
