"""`copper bench oversubscribe`: more guest memory than the host has, all of it answering, and then all of it in use.

Not a measurement of time but a demonstration: of what Copper does to whom when guests come to use what they have, and
that whoever is left has every byte that it wrote.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from copper.bench import place
from copper.bench.calls import Shell, a_shell
from copper.bench.fan import fan_out
from copper.bench.place import Place
from copper.bench.probe import Probe, a_probe
from copper.bench.progress import Progress
from copper.bench.run import OUT, a_run, facts
from copper.bench.series import Kind, Results, Target, report
from copper.bench.stats import Guest
from copper.model.errors import BadInput, CopperError
from copper.model.settings import Settings, from_environment

CLONES, MEMORY_MIB, WRITE_MIB, WATCH_S = 400, 256, 96, 900.0
BATCH = 50  # clones of one call
LEARNING_S = 120.0  # until it is known how little they write
AT_ONCE = 8  # that are told to write
WAITS_S = 2.0  # that the next waits for one that does not answer
BEGIN_S = 60.0
LOOK_S = 1.0
GO_ON_S = 240.0  # that those who stood are given to go on
SMALL_RESERVE_MIB = 64
SHARED, SURE = "many", "sure"
# each writes its vmid, a number and the same MiB of random bytes into so many files in memory, beside its other work
SEED = "dd if=/dev/urandom of=/dev/shm/seed bs=1M count=1 2>/dev/null"
FILL = (
    "setsid sh -c 'me=$(gc vmid); n=0; while [ $n -lt {mib} ]; do"
    " {{ echo $me $n; cat /dev/shm/seed; }} >/dev/shm/w$n || break; n=$((n+1)); done; echo $n >/dev/shm/done'"
    " >/dev/null 2>&1 </dev/null &"
)
# compares all that it wrote, but the file that it may be at
CHECK = (
    "me=$(gc vmid); n=0; while [ -e /dev/shm/w$((n+1)) ]; do"
    " {{ echo $me $n; cat /dev/shm/seed; }} | cmp -s - /dev/shm/w$n || {{ echo wrong; exit 0; }}; n=$((n+1)); done;"
    " echo right"
)
UP = "clones up, each of which answered"
NOMINAL = "their memory, nominal"
HOST = "the host's memory"
USED = "used by the host for them"
USED_EACH = "of that, each"
PAUSED = "paused when they worked"
ENDED = "ended when they worked"
RUNNING = "running when they had worked"
UNTOLD = "that stand or ended without a reason"
CHOSEN = "guaranteed VMs that were paused or ended"
WRONG = "that hold another byte than they wrote"
CHECKED = "of which every byte was compared"
KERNEL = "processes that the kernel ended for memory"
LEAST = "least that was free"


KINDS = (
    Kind(UP, "", "over the network, to a ping"),
    Kind(NOMINAL, "GB", "all VMs together"),
    Kind(HOST, "GB", "MemTotal"),
    Kind(
        USED,
        "GB",
        "MemAvailable before the virtual cluster was booted less that with all clones up",
    ),
    Kind(USED_EACH, "MB", "divided by the clones"),
    Kind(PAUSED, "", "at one time, at most"),
    Kind(ENDED, "", "VMs that Copper ended"),
    Kind(RUNNING, "", "at the end"),
    Kind(UNTOLD, "", "`reason` of the VM is empty"),
    Kind(CHOSEN, "", "one VM of memory class guaranteed runs beside them"),
    Kind(
        CHECKED,
        "",
        "some of those that run at the end; then half of those that stood end, and of the other half some are asked",
    ),
    Kind(WRONG, "", "files in memory, written anew from what is known of them and compared"),
    Kind(KERNEL, "", "oom_kill of /proc/vmstat, after less before"),
    Kind(LEAST, "MB", "MemAvailable, looked at every second"),
)


def goals(clones: int) -> tuple[Target, ...]:
    return (
        Target(f"memory used by {clones} clones that answer", USED, 10),
        Target("paused or ended without a reason", UNTOLD, 0),
        Target("guaranteed VMs chosen", CHOSEN, 0),
        Target("VMs with a wrong byte", WRONG, 0),
        Target("ended by the kernel", KERNEL, 0),
    )


def main(
    *,
    clones: int = CLONES,
    memory_mib: int = MEMORY_MIB,
    write_mib: int = WRITE_MIB,
    watch_s: float = WATCH_S,
    checked: int = 40,
    within_mib: int = 0,
    out: Path | None = None,
    settings: Settings | None = None,
) -> int:
    """Runs the demonstration, prints its report, and writes bench-oversubscribe.json into `out`.

    `watch_s`: how long is watched at most while they write `write_mib` each. `checked`: of how many running VMs all is
    compared at the end. `within_mib`: what they may use when they work before Copper pauses them, where that is not all
    that the host has; 0: it is. Returns 0, or 1 when something could not be done. Raises BadInput and whatever keeps
    it from beginning. Nothing that it started is left, however it ends.
    """
    settings = settings or from_environment()
    if write_mib > memory_mib // 2:
        raise BadInput(f"--write {write_mib}", advice=f"expected at most {memory_mib // 2}")
    guest = Guest("micro", memory_mib)
    results = Results(
        bench="oversubscribe",
        asked={"clones": clones, "guest": guest.label, "written by each": f"{write_mib} MiB"},
        kinds=KINDS,
        goals=goals(clones),
        machine=facts(settings),
    )
    progress = Progress(1)
    path = (out or OUT) / "bench-oversubscribe.json"
    with a_run(results, report, path, guest, settings, progress) as where:
        with results.said("the demonstration"):
            show = _Show(where, guest, results, progress)
            show.run(clones, write_mib, watch_s, checked, within_mib)
    return 1 if results.missing else 0


def _meminfo(name: str) -> int:
    """Bytes."""
    (kib,) = re.findall(rf"^{name}:\s+(\d+)", Path("/proc/meminfo").read_text(), re.M)
    return int(kib) << 10


def _killed_by_kernel() -> int:
    (count,) = re.findall(r"^oom_kill (\d+)", Path("/proc/vmstat").read_text(), re.M)
    return int(count)


class _Show:
    """One demonstration."""

    def __init__(self, place: Place, guest: Guest, results: Results, progress: Progress) -> None:
        self._place, self._guest = place, guest
        self._results, self._progress = results, progress

    def run(
        self, clones: int, write_mib: int, watch_s: float, checked: int, within_mib: int
    ) -> None:
        """All of it."""
        client, results = self._place.client, self._results
        killed = _killed_by_kernel()
        results.add(HOST, _meminfo("MemTotal") / 1e9)
        client.create(SURE, self._guest.image, memory_class="guaranteed")
        client.boot(SURE)
        free = _meminfo("MemAvailable")
        client.create(SHARED, self._guest.image)
        try:
            master = client.boot(SHARED).name
            with a_probe(self._place, SHARED) as probe, a_shell(self._place, master) as shell:
                shell.ask(f"{SEED}; gc vmid")
                names = self._grow(shell, probe, clones)
            self._place.rest(quiet=True)
            used = free - _meminfo("MemAvailable")
            results.add(UP, len(names))
            results.add(NOMINAL, (len(names) + 2) * self._guest.memory_mib * (1 << 20) / 1e9)
            results.add(USED, used / 1e9)
            results.add(USED_EACH, used / 1e6 / len(names))
            if within_mib:
                place.again(
                    self._place, keep_free_mib=2 * ((_meminfo("MemAvailable") >> 20) - within_mib)
                )
            self._fill(names, write_mib)
            self._watch(names, watch_s)
            self._compare(names, checked, more_room=bool(within_mib))
            results.add(KERNEL, _killed_by_kernel() - killed)
        finally:
            for cluster in (SHARED, SURE):
                client.kill(cluster)
                client.delete(cluster)

    def _grow(self, shell: Shell, probe: Probe, clones: int) -> list[str]:
        """In calls of so many that there is room for while it is being learnt how little they write."""
        names: list[str] = []
        until = time.monotonic() + LEARNING_S
        while len(names) < clones:
            count = min(BATCH, clones - len(names), max(4, len(names)))
            try:
                names += fan_out(self._place, shell, probe, count).clones
            except CopperError as error:
                if time.monotonic() > until or "16" not in str(error):
                    raise
                self._progress.say(f"{len(names)} are up, and wait for room: {error}")
                self._place.wait(5)
                continue
            until = time.monotonic() + LEARNING_S
            free = _meminfo("MemAvailable") >> 20
            self._progress.say(f"{len(names)} of {clones} are up, {free} MiB are free")
        return names

    def _fill(self, names: Sequence[str], write_mib: int) -> None:
        """Has all of them begin to write; who is paused meanwhile begins when it goes on."""
        fill = FILL.format(mib=write_mib)
        at_once = threading.Semaphore(AT_ONCE)

        def begin(name: str) -> None:
            in_turn = at_once.acquire(timeout=WAITS_S)
            try:
                with contextlib.suppress(CopperError):
                    self._place.client.run(name, ["sh", "-c", fill])
            finally:
                if in_turn:
                    at_once.release()

        # one that is paused answers when it goes on, or with its end: it holds up nobody
        asked = [threading.Thread(target=begin, args=[name], daemon=True) for name in names]
        for thread in asked:
            thread.start()
        until = time.monotonic() + BEGIN_S
        for thread in asked:
            thread.join(max(0.0, until - time.monotonic()))
        began = sum(not thread.is_alive() for thread in asked)
        self._progress.say(f"{began} of {len(names)} were told to write {write_mib} MiB each")

    def _watch(self, names: Sequence[str], watch_s: float) -> None:
        """Until nothing changes any more, or the time is over."""
        until, least, most_paused = time.monotonic() + watch_s, _meminfo("MemAvailable"), 0
        before: tuple[Counter[str], int] | None = None
        still = 0
        while time.monotonic() < until and still < 30:
            self._place.wait(LOOK_S)
            states = self._states()
            free = _meminfo("MemAvailable")
            least = min(least, free)
            most_paused = max(most_paused, states["paused"])
            now = states, free >> 25
            still = still + 1 if now == before else 0
            if before is None or states != before[0]:
                said = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
                self._progress.say(f"{said}; {free >> 20} MiB are free")
            before = now
        self._results.add(PAUSED, most_paused)
        self._results.add(LEAST, least / 1e6)
        rows = self._place.client.vms(SHARED)
        ended = [row for row in rows if row.state == "dead"]
        paused = [one for one in self._place.client.statuses() if one.state == "paused"]
        self._results.add(ENDED, len(ended))
        self._results.add(RUNNING, self._states()["running"])
        untold = [row for row in ended if not row.reason]
        self._results.add(UNTOLD, len(untold) + len([one for one in paused if not one.reason]))
        sure = self._place.client.vms(SURE)
        self._results.add(CHOSEN, len([row for row in sure if row.state != "running"]))

    def _states(self) -> Counter[str]:
        rows = self._place.client.vms(SHARED)
        paused = {one.name for one in self._place.client.statuses() if one.state == "paused"}
        return Counter("paused" if row.name in paused else row.state for row in rows)

    def _compare(self, names: Sequence[str], checked: int, *, more_room: bool) -> None:
        """Of those that run; then of those that stood, once they have the room of half of them, or more."""
        said = self._ask(self._running(names), checked)
        standing = {one.name for one in self._place.client.statuses() if one.state == "paused"}
        stood = [name for name in names if name in standing]
        if stood:
            if more_room:
                place.again(self._place, keep_free_mib=SMALL_RESERVE_MIB)
            else:
                for name in stood[len(stood) // 2 :]:
                    self._place.client.end(name)
                stood = stood[: len(stood) // 2]
            until = time.monotonic() + GO_ON_S
            while time.monotonic() < until and len(self._running(stood)) < len(stood):
                self._place.wait(LOOK_S)
            going = self._running(stood)
            self._progress.say(f"{len(going)} of {len(stood)} that stood go on")
            said += self._ask(going, checked)
        self._results.add(CHECKED, said["right"] + said["wrong"])
        if said.total():
            self._results.add(WRONG, said["wrong"] + said["?"])

    def _running(self, names: Collection[str]) -> list[str]:
        statuses = self._place.client.statuses()
        return [one.name for one in statuses if one.name in names and one.state == "running"]

    def _ask(self, names: Sequence[str], checked: int) -> Counter[str]:
        """What some of these say of what they wrote."""
        said = Counter[str]()
        for name in names[:: max(1, len(names) // checked)]:
            with contextlib.suppress(CopperError):  # it may be paused or ended now
                done = self._place.client.run(name, ["sh", "-c", CHECK.format()])
                said[done.stdout.decode().strip() or "?"] += 1
        return said
