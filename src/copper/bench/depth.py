"""`copper bench depth`: a fork of a fork of a fork, 32 generations deep.

Each VM is ended once its clone was measured, so that as many run at every depth.
"""

from __future__ import annotations

from pathlib import Path

from copper.bench.calls import a_shell
from copper.bench.fan import fan_out
from copper.bench.place import Place
from copper.bench.probe import Probe, a_probe
from copper.bench.progress import Progress
from copper.bench.run import OUT, a_run, facts
from copper.bench.series import Kind, Results, Target, report
from copper.bench.stats import Guest
from copper.bench.targets import PAUSE
from copper.model.errors import BadInput
from copper.model.settings import Settings, from_environment

ROUNDS, DEEPEST, MEMORY_MIB = 10, 32, 128
SHOWN = (1, 2, 4, 8, 16, 24, 32)
CLUSTER = "deep"
WHAT = {
    "pause": "its parent stands still in `gc clone 1`",
    "made": "from the host's order until the clone is ready",
    "last answer": "from the line `gc clone 1` in its parent until it has answered a ping over the network",
}


def of(generation: int, what: str) -> str:
    """A kind."""
    return f"generation {generation}: {what}"


def kinds(deepest: int) -> tuple[Kind, ...]:
    shown = sorted({*(one for one in SHOWN if one <= deepest), deepest})
    times = [Kind(of(one, what), "ms", means) for what, means in WHAT.items() for one in shown]
    own = [Kind(of(one, "own memory"), "MB", "of the clone, as Copper says") for one in shown]
    layers = [
        Kind(of(one, "layers"), "", "of its memory, joined when they are many") for one in shown
    ]
    return (*times, *own, *layers)


def goals(deepest: int) -> tuple[Target, ...]:
    steady = [
        Target(
            f"generation {deepest} over generation 1, {what}, p50",
            of(deepest, what),
            1.25,
            over=of(1, what),
        )
        for what in WHAT
    ]
    pause = Target(f"pause of generation {deepest}, p50", of(deepest, "pause"), PAUSE)
    return (*steady, pause)


def main(
    *,
    rounds: int | None = None,
    deepest: int = DEEPEST,
    out: Path | None = None,
    settings: Settings | None = None,
) -> int:
    """Runs the bench, prints its report, and writes bench-depth.json into `out`.

    Returns 0, or 1 when something could not be measured. Raises BadInput and whatever keeps a run from
    beginning. Nothing that it started is left, however it ends.
    """
    settings = settings or from_environment()
    rounds = ROUNDS if rounds is None else rounds
    if rounds < 1 or deepest < 1:
        raise BadInput(f"--rounds {rounds} --depth {deepest}", advice="expected 1 or more")
    guest = Guest("micro", MEMORY_MIB)
    results = Results(
        bench="depth",
        asked={"rounds": rounds, "depth": deepest, "guest": guest.label},
        kinds=kinds(deepest),
        goals=goals(deepest),
        machine=facts(settings),
    )
    progress = Progress(rounds)
    path = (out or OUT) / "bench-depth.json"
    with a_run(results, report, path, guest, settings, progress) as where:
        progress.begin_rounds()
        for number in range(rounds):
            progress.begin_round(number)
            with results.said(f"round {number + 1}"):
                _round(where, guest, results, deepest)
    return 1 if results.missing else 0


def _round(place: Place, guest: Guest, results: Results, deepest: int) -> None:
    client = place.client
    client.create(CLUSTER, guest.image)
    try:
        parent = client.boot(CLUSTER).name
        with a_probe(place, CLUSTER) as probe:
            for generation in range(1, deepest + 1):
                parent = _generation(place, results, probe, parent, generation)
    finally:
        client.kill(CLUSTER)
        client.delete(CLUSTER)


def _generation(place: Place, results: Results, probe: Probe, parent: str, number: int) -> str:
    """Forks the last one and ends it; returns its clone."""
    client = place.client
    with a_shell(place, parent) as shell:
        shell.ask("gc vmid")
        place.rest(quiet=True)
        fanned = fan_out(place, shell, probe, 1)
        results.add(of(number, "pause"), client.status(parent).last_pause_ms or 0)
    client.end(parent)
    (clone,) = fanned.clones
    status = client.status(clone)
    results.add(of(number, "made"), status.ready_ms)
    results.add(of(number, "last answer"), fanned.last_ms)
    results.add(of(number, "own memory"), status.own_bytes / 1e6)
    results.add(of(number, "layers"), status.layers)
    return clone
