"""`copper bench soak`: forks, ends, tickets, pauses and suspends at random over many VMs, for as long as is wanted.

What is looked for is what grows, what is left, and what is wrong: each VM writes all the time, and says of itself
whether it still has what it wrote.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from copper.bench.fan import await_standbys
from copper.bench.memory import memory_of
from copper.bench.place import Place
from copper.bench.progress import Progress, clock
from copper.bench.run import OUT, a_run, facts
from copper.bench.series import Kind, Results, Target, report
from copper.bench.stats import Guest
from copper.model.errors import Conflict, CopperError, NotFound, Refused, TimedOut
from copper.model.settings import Settings, from_environment

MINUTES, VMS, MEMORY_MIB = 60.0, 200, 128
CLUSTERS = ("soak-a", "soak-b", "soak-c", "soak-d")
AT_ONCE = 3  # that act, each on its own
MOST_CLONES = 12  # of one fork
LOOK_S = 60.0
SHARE_S = 0.2  # so long after one VM the next writes: all together leave the processors time for what is done
# a file in memory and one on the disk are replaced all the time, each by lines that are all the same; two others never
WRITES = (
    "head -c 262144 /dev/urandom >/dev/shm/kept; head -c 262144 /dev/urandom >/root/kept; cd /;"
    " md5sum dev/shm/kept root/kept >/root/sums; cp /root/sums /dev/shm/sums;"
    " setsid sh -c 'i=0; while :; do i=$((i+1)); for f in /dev/shm/lines /root/lines; do n=0;"
    " while [ $n -lt 50 ]; do echo $i of this; n=$((n+1)); done >$f.new; mv $f.new $f; done; sleep {rest_s}; done'"
    " >/dev/null 2>&1 </dev/null & until [ -e /root/lines ]; do sleep 0.1; done"
)
ASKS = (
    "cd /; md5sum -c root/sums >/dev/null 2>&1 && md5sum -c dev/shm/sums >/dev/null 2>&1 || { echo sums; exit; };"
    " for f in /dev/shm/lines /root/lines; do cp $f /tmp/seen.$$;"
    " [ $(sort -u /tmp/seen.$$ | wc -l) = 1 ] && [ $(wc -l </tmp/seen.$$) = 50 ] || { echo $f; exit; };"
    " rm /tmp/seen.$$; done; echo right"
)
ACTIONS = ("fork", "kill", "ticket", "pause", "suspend")
WEIGHTS = (8, 5, 4, 2, 1)
DONE = "done: {}"
REFUSED = "refused or too late"
FAILED = "failed otherwise"
MOST = "VMs, at most"
RIGHT = "VMs asked that have what they wrote"
WRONG = "VMs asked that have not"
AMISS = "amiss at the end, by copper audit"
FILES = "descriptors more at the end than at the beginning"
RSS = "memory of Copper's process more"
RSS_HALF = "of that, since the middle"
KINDS = (
    *(Kind(DONE.format(action), "", "how often") for action in ACTIONS),
    Kind(REFUSED, "", "no room, or another was there before: not found, conflict, refused"),
    Kind(FAILED, "", "any other answer"),
    Kind(MOST, "", "that ran at one time"),
    Kind(RIGHT, "", "one after the other at random, and all of them at the end"),
    Kind(
        WRONG,
        "",
        "two files with their sums, two that are written all the time; in memory and on the disk",
    ),
    Kind(AMISS, "", "when everything is at rest, and when all virtual clusters were ended"),
    Kind(
        FILES,
        "",
        "of Copper's process, when all virtual clusters were ended, less when the first had been",
    ),
    Kind(RSS, "MB", "the same of its own memory"),
    Kind(RSS_HALF, "MB", "the same, less what it had with as many VMs in the middle"),
)
GOALS = (
    Target("VMs that have not what they wrote", WRONG, 0),
    Target("amiss at the end", AMISS, 0),
    Target("failed otherwise", FAILED, 0),
    Target("descriptors more", FILES, 8),
    Target("memory of Copper's process more", RSS, 100),
)


def main(
    *,
    minutes: float = MINUTES,
    vms: int = VMS,
    seed: int | None = None,
    out: Path | None = None,
    settings: Settings | None = None,
) -> int:
    """Runs the soak, prints its report, and writes bench-soak.json into `out`.

    The same `seed` chooses the same actions; what they meet is chance. Returns 0, or 1 when something was wrong. Raises
    whatever keeps it from beginning. Nothing that it started is left, however it ends.
    """
    settings = settings or from_environment()
    seed = random.randrange(1 << 30) if seed is None else seed
    guest = Guest("micro", MEMORY_MIB)
    results = Results(
        bench="soak",
        asked={"minutes": f"{minutes:g}", "VMs": vms, "guest": guest.label, "seed": seed},
        kinds=KINDS,
        goals=GOALS,
        machine=facts(settings),
    )
    progress = Progress(1)
    path = (out or OUT) / "bench-soak.json"
    with a_run(results, report, path, guest, settings, progress) as where:
        with results.said("the soak"):
            _Soak(where, guest, results, progress, vms, seed).run(minutes * 60)
    wrong = [verdict for verdict in results.verdicts if verdict.reached is not True]
    return 1 if results.missing or wrong else 0


@dataclasses.dataclass
class _Process:
    """What Copper's process holds."""

    files: int
    own_mb: float

    @classmethod
    def of(cls, place: Place) -> _Process:
        pid = place.process.pid
        return cls(len(list(Path(f"/proc/{pid}/fd").iterdir())), memory_of(pid).own)


class _Soak:
    """One of them. Actions are done by a few threads; each answer that is no refusal is written down."""

    def __init__(
        self,
        place: Place,
        guest: Guest,
        results: Results,
        progress: Progress,
        vms: int,
        seed: int,
    ) -> None:
        self._place, self._guest, self._results = place, guest, results
        self._progress, self._most = progress, vms
        self._choose = random.Random(seed)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._failures: list[str] = []
        self._ending = threading.Event()

    def run(self, seconds: float) -> None:
        """All of it; what went wrong is in the results."""
        self._begin(CLUSTERS[0])  # what the first one alone does is no growth
        self._end(CLUSTERS[0])
        await_standbys(self._place)
        before = _Process.of(self._place)
        for cluster in CLUSTERS:
            self._begin(cluster)
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            acting = [pool.submit(self._act) for _ in range(AT_ONCE)]
            try:
                middle = self._watch(seconds)
            finally:
                self._ending.set()
            for one in acting:
                one.result()
        self._settle()
        for cluster in CLUSTERS:
            self._end(cluster)
        await_standbys(self._place)
        after = _Process.of(self._place)
        self._write_down(before, middle, after)

    def _begin(self, cluster: str) -> None:
        self._place.client.create(cluster, self._guest.image)
        master = self._place.client.boot(cluster).name
        writes = WRITES.format(rest_s=round(self._most * SHARE_S, 2))
        done = self._place.client.run(master, ["sh", "-c", writes])
        if done.status:
            raise CopperError(f"{master} does not write: {done.stderr.decode()[-200:]}")

    def _end(self, cluster: str) -> None:
        self._place.client.kill(cluster)
        self._place.client.delete(cluster)

    def _watch(self, seconds: float) -> _Process:
        """Until the time is over; what Copper's process had in the middle."""
        began, middle = time.monotonic(), None
        while (gone := time.monotonic() - began) < seconds:
            self._place.wait(min(LOOK_S, seconds - gone))
            count = len(self._place.client.statuses())
            self._counts[MOST] = max(self._counts[MOST], count)
            if middle is None and time.monotonic() - began >= seconds / 2:
                middle = _Process.of(self._place)
            done = ", ".join(f"{self._counts[DONE.format(one)]} {one}" for one in ACTIONS)
            self._progress.say(f"{clock(time.monotonic() - began)}: {count} VMs; {done}")
        return middle or _Process.of(self._place)

    # what is done at random

    def _act(self) -> None:
        while not self._ending.is_set():
            with self._lock:
                (action,) = self._choose.choices(ACTIONS, WEIGHTS)
                cluster = self._choose.choice(CLUSTERS)
                luck = self._choose.random()
            do: dict[str, Callable[[str, float], None]] = {
                "fork": self._fork,
                "kill": self._kill,
                "ticket": self._ticket,
                "pause": self._pause,
                "suspend": self._suspend,
            }
            try:
                do[action](cluster, luck)
            except TimedOut as error:
                self._failed(f"{action} in {cluster}: {error}")
            except (NotFound, Conflict, Refused):
                self._count(REFUSED)
            except CopperError as error:
                self._failed(f"{action} in {cluster}: {error}")
            else:
                self._count(DONE.format(action))
            with contextlib.suppress(NotFound, Conflict, Refused):
                self._ask(self._one(cluster, luck))

    def _one(self, cluster: str, luck: float) -> str:
        """A VM of it that runs. Raises NotFound."""
        names = [vm.name for vm in self._place.client.vms(cluster, state="running")]
        if not names:
            raise NotFound(f"no VM of {cluster} runs")
        return names[int(luck * len(names))]

    def _fork(self, cluster: str, luck: float) -> None:
        room = self._most - len(self._place.client.statuses())
        count = min(room, 1 + int(luck * MOST_CLONES))
        if count > 0:
            self._place.client.clone_vm(self._one(cluster, 1 - luck), count=count)
        else:
            self._kill(cluster, luck)

    def _kill(self, cluster: str, luck: float) -> None:
        for _ in range(1 + int(luck * 4)):
            name = self._one(cluster, luck)
            if not name.endswith("-0"):  # somebody has to fork again
                self._place.client.kill_vm(name)

    def _ticket(self, cluster: str, luck: float) -> None:
        vm = self._one(cluster, luck)
        ticket = self._place.client.request_ticket(vm, 1 + int(luck * 4))
        if luck < 0.5 and len(self._place.client.statuses()) < self._most - 4:
            self._place.client.clone_vm(vm, ticket=ticket.id)
        else:
            self._place.client.release_ticket(ticket.id)

    def _pause(self, cluster: str, luck: float) -> None:
        self._place.client.pause(cluster)
        self._place.client.unpause(cluster)

    def _suspend(self, cluster: str, luck: float) -> None:
        self._place.client.suspend(cluster)
        self._place.client.resume(cluster)

    def _ask(self, name: str) -> None:
        try:
            done = self._place.client.run(name, ["sh", "-c", ASKS])
        except CopperError:
            return  # it was ended, paused or stored meanwhile
        said = done.stdout.decode().strip()
        if said == "right":
            self._count(RIGHT)
        elif said and not done.status:
            self._count(WRONG)
            self._failed(f"{name} has another {said} than it wrote", as_=WRONG)

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def _failed(self, why: str, as_: str = FAILED) -> None:
        with self._lock:
            self._counts[FAILED] += as_ == FAILED
            self._failures.append(why)
        self._progress.say(why)

    # at the end

    def _settle(self) -> None:
        """All run again, and each of them is asked."""
        client = self._place.client
        for cluster in CLUSTERS:
            for again in (client.unpause, client.resume):
                with contextlib.suppress(Conflict, NotFound, Refused):
                    again(cluster)
        await_standbys(self._place)
        for vm in client.vms(state="running"):
            self._ask(vm.name)
        self._audit()

    def _audit(self) -> None:
        for one in self._place.client.audit():
            self._counts[AMISS] += 1
            self._progress.say(f"amiss: {one.thing} {one.name}: {one.says}")

    def _write_down(self, before: _Process, middle: _Process, after: _Process) -> None:
        self._audit()
        for kind in KINDS:
            if not kind.unit and kind.name != FILES:
                self._results.add(kind.name, self._counts[kind.name])
        self._results.add(FILES, after.files - before.files)
        self._results.add(RSS, after.own_mb - before.own_mb)
        self._results.add(RSS_HALF, after.own_mb - middle.own_mb)
