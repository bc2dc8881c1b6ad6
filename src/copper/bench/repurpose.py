"""`copper bench repurpose`: all clones of one virtual cluster are ended, and as many of another grown, again and again.

What is left of them is counted after each turn: a host that is repurposed all day must be at its evening what it was
in the morning.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from copper.bench.calls import Shell, a_shell
from copper.bench.fan import await_standbys, end_all, fan_out
from copper.bench.place import Place
from copper.bench.probe import Probe, a_probe
from copper.bench.progress import Progress
from copper.bench.run import OUT, a_run, facts
from copper.bench.series import Kind, Results, Target, report
from copper.bench.stats import Guest
from copper.host.inventory import links_of
from copper.model.errors import BadInput, CopperError
from copper.model.settings import Settings, from_environment
from copper.vmm.layers import layer_of

TURNS, CLONES, MEMORY_MIB = 20, 100, 128
CLUSTERS = ("day", "night")
PART = 4  # the turns at the beginning and at the end that are compared: one alone is chance


@dataclasses.dataclass(frozen=True)
class Rows:
    """`clones` are ended and grown in each turn."""

    clones: int

    @property
    def whole(self) -> str:
        return f"{self.clones} ended and {self.clones} grown"

    @property
    def ended(self) -> str:
        return f"of that, {self.clones} ended"

    @property
    def grown(self) -> str:
        return f"of that, {self.clones} grown: last answer"

    @property
    def first(self) -> str:
        return f"{self.whole}: the first turns"

    @property
    def last(self) -> str:
        return f"{self.whole}: the last turns"

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (
            Kind(
                self.whole,
                "ms",
                "from `gc killall` being sent to the master that has the clones until the last clone of the other"
                " master, told to clone when nothing of the former was left, has answered a ping over its network;"
                " after each turn all comes to rest, 8 s at most, and is counted",
            ),
            Kind(self.ended, "ms", "until no clone is left on the host"),
            Kind(self.grown, "ms", "from `gc clone` being sent to the other master"),
            Kind(self.first, "ms", f"the first {PART} turns, or a half of them"),
            Kind(self.last, "ms", f"the last {PART} turns, or a half of them"),
            Kind(
                FILES,
                "",
                "of Copper's process after each turn, beyond what it had after the first, without those of layers",
            ),
            Kind(
                LAYERS,
                "",
                "descriptors of layers that it has: a master has up to eight, then they are joined",
            ),
            Kind(RSS, "MB", "the same of its memory (VmRSS)"),
            Kind(
                LEFT,
                "",
                "what `copper audit` finds amiss after each turn (processes, disks, taps, groups, records), and QEMUs"
                " beyond VMs and standbys",
            ),
        )

    @property
    def goals(self) -> tuple[Target, ...]:
        return (
            Target(f"{self.whole}, p50", self.whole, 8000),
            Target("the last turns over the first, medians", self.last, 1.25, over=self.first),
            Target("left behind, worst", LEFT, 0, at="worst"),
            Target("descriptors beyond the first turn's, worst", FILES, 4, at="worst"),
            Target("layers of two masters and their template, worst", LAYERS, 20, at="worst"),
        )


FILES = "descriptors more"
LAYERS = "layers held"
RSS = "memory of Copper's process more"
LEFT = "left behind"


def main(
    *,
    turns: int | None = None,
    clones: int = CLONES,
    out: Path | None = None,
    settings: Settings | None = None,
) -> int:
    """Runs the bench, prints its report, and writes bench-repurpose.json into `out`.

    Returns 0, or 1 when something could not be measured. Raises BadInput and whatever keeps a run from
    beginning. Nothing that it started is left, however it ends.
    """
    settings = settings or from_environment()
    turns = TURNS if turns is None else turns
    if turns < 2:
        raise BadInput(f"--turns {turns}", advice="expected 2 or more")
    guest = Guest("micro", MEMORY_MIB)
    rows = Rows(clones)
    results = Results(
        bench="repurpose",
        asked={"turns": turns, "clones": clones, "guest": guest.label},
        kinds=rows.kinds,
        goals=rows.goals,
        machine=facts(settings),
    )
    progress = Progress(turns)
    path = (out or OUT) / "bench-repurpose.json"
    with a_run(results, report, path, guest, settings, progress) as where:
        with results.said("turns"):
            _turns(where, guest, results, rows, turns, progress)
    return 1 if results.missing else 0


def _turns(
    place: Place, guest: Guest, results: Results, rows: Rows, turns: int, progress: Progress
) -> None:
    with ExitStack() as stack:
        masters = [stack.enter_context(_booted(place, name, guest)) for name in CLUSTERS]
        place.rest(quiet=True)
        fan_out(place, *masters[0], rows.clones)
        progress.begin_rounds()
        before: _Held | None = None
        taken = []
        for number in range(turns):
            progress.begin_round(number)
            (old, _), (new, probe) = masters[number % 2], masters[(number + 1) % 2]
            began = time.perf_counter()
            end_all(place, old)
            ended = time.perf_counter()
            fanned = fan_out(place, new, probe, rows.clones)
            taken.append((fanned.ended - began) * 1000)
            results.add(rows.whole, taken[-1])
            results.add(rows.ended, (ended - began) * 1000)
            results.add(rows.grown, fanned.last_ms)
            held = _Held.of(place)
            before = before or held
            results.add(FILES, held.files - before.files)
            results.add(LAYERS, held.layers)
            results.add(RSS, held.rss_mb - before.rss_mb)
            results.add(LEFT, held.amiss)
        part = min(PART, turns // 2)
        results.add(rows.first, *taken[:part])
        results.add(rows.last, *taken[-part:])


@contextmanager
def _booted(place: Place, cluster: str, guest: Guest) -> Iterator[tuple[Shell, Probe]]:
    client = place.client
    client.create(cluster, guest.image)
    master = client.boot(cluster).name
    try:
        with a_shell(place, master) as shell, a_probe(place, cluster) as probe:
            shell.ask("gc vmid")  # the first one also finds the program in the guest's files
            yield shell, probe
    finally:
        client.kill(cluster)
        client.delete(cluster)


@dataclasses.dataclass(frozen=True)
class _Held:
    """What a Copper has at an instant at which it is at rest."""

    files: int  # descriptors that are none of layers
    layers: int
    rss_mb: float
    amiss: int

    @classmethod
    def of(cls, place: Place) -> _Held:
        await_standbys(place, place.settings.standbys)
        place.rest(quiet=False)
        process, settings = Path(f"/proc/{place.process.pid}"), place.settings
        try:
            status = process.joinpath("status").read_text()
            rss = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        except (OSError, StopIteration) as error:
            raise CopperError(f"the bench's Copper has ended: {error}") from error
        opened = links_of(process)
        units = len(list((settings.run_dir / "q").iterdir())) - settings.standbys
        vms = len(place.client.statuses())
        amiss = len(place.client.audit()) + max(0, units - vms)
        layers = sum(layer_of(what) is not None for what in opened)
        return cls(len(opened) - layers, layers, int(rss) * 1024 / 1e6, amiss)
