"""Where a bench runs: a Copper of its own with its own folders, of which nothing is left at the end.

KEEP/images, KEEP/cache     the templates that are measured, kept for the next run
KEEP/run-*/                 one run: state and peers' files, removed at its end
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from copper.bench.stats import Guest
from copper.client import Client
from copper.host.cgroups import sweep
from copper.host.template import build_template
from copper.image.build import built as builds
from copper.image.build.built import Built
from copper.image.build.progress import Progress
from copper.image.store import ImageStore, Manifest
from copper.model.errors import Conflict, CopperError, Damaged, Foreign, NotFound, TimedOut
from copper.model.settings import Settings
from copper.vmm.alive import Alive, strays

START_S = 60.0
END_S = 30.0
REST_S = 8.0  # most time that a guest is given to come to rest
WINDOW_S = 0.2
QUIET_SHARE = 0.35  # of one processor, all processes of the place together


@dataclasses.dataclass(frozen=True)
class Template:
    """A guest's stored image and what it was built from."""

    guest: Guest
    manifest: Manifest
    built: Built


@dataclasses.dataclass
class Place:
    """A running Copper with folders of its own."""

    settings: Settings
    folder: Path
    process: subprocess.Popen[bytes]
    template: Template | None = None  # of a run with one guest

    @property
    def client(self) -> Client:
        return Client(self.settings)

    @property
    def log(self) -> Path:
        return self.folder / "copper.log"

    def wait(self, seconds: float) -> None:
        """Lets time pass, unless this Copper ends, which it must not. Raises CopperError then."""
        pidfd = os.pidfd_open(self.process.pid)
        try:
            if select.select([pidfd], [], [], seconds)[0]:
                raise CopperError(f"the bench's Copper ended: {_tail(self.log)}")
        finally:
            os.close(pidfd)

    def qemus(self) -> dict[str, int]:
        """The QEMU processes of this Copper, standbys included: their pids by unit."""
        found = {}
        for path in (self.settings.run_dir / "q").glob("*/process.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                found[path.parent.name] = int(json.loads(path.read_text())["alive"]["pid"])
        return found

    def rest(self, *, quiet: bool) -> None:
        """Returns when no process comes or goes and, with `quiet`, nobody works; or after a deadline.

        What a call of a moment ago left to do shall not be measured with the next.
        """
        deadline = time.monotonic() + REST_S
        units, used, since = self._units(), self._used(), time.monotonic()
        while time.monotonic() < deadline:
            self.wait(WINDOW_S)
            now_units, now_used, now = self._units(), self._used(), time.monotonic()
            settled = now_units == units == set(self.qemus())
            if settled and (not quiet or (now_used - used) / (now - since) < QUIET_SHARE):
                return
            units, used, since = now_units, now_used, now

    def _units(self) -> set[str]:
        """All QEMUs of this Copper, those that are being started included."""
        return {entry.name for entry in (self.settings.run_dir / "q").glob("*")}

    def _used(self) -> float:
        """Seconds of processors that this Copper and its VMs have used."""
        return sum(processor_seconds(pid) for pid in (self.process.pid, *self.qemus().values()))


def processor_seconds(pid: int) -> float:
    """What a process has used; 0 when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def keep_folder(settings: Settings) -> Path:
    """Where templates are kept between runs, with the packages that image builds have fetched already."""
    keep = settings.cache_dir / "bench"
    keep.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (keep / "cache").symlink_to("..")
    return keep


def ready_template(
    settings: Settings, keep: Path, run_dir: Path, guest: Guest, progress: Progress
) -> Template:
    """Builds a guest's template, or finds it as it should be; another run's build is awaited. Raises CopperError."""
    mine = dataclasses.replace(settings, state_dir=keep, run_dir=run_dir)

    def build() -> Manifest:
        return build_template(
            mine,
            guest.image,
            guest.recipe,
            memory_mib=guest.memory_mib,
            progress=progress,
        )

    with (keep / f"{guest.image}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            manifest = build()
        except (Conflict, Damaged, Foreign):  # of an older recipe, agent, QEMU or Copper
            ImageStore(mine).delete(guest.image)
            manifest = build()
    folder = mine.cache_dir / "images" / f"{guest.recipe}-{manifest.recipe_digest[:16]}"
    built = builds.load(folder)
    if built is None:
        raise NotFound(f"the build of {guest.recipe} is not in {folder}")
    return Template(guest, manifest, built)


@contextlib.contextmanager
def run_folders(keep: Path) -> Iterator[tuple[Path, Path]]:
    """A folder for what one run stores and a short one for its sockets; both are gone at the end.

    What a run that was killed left behind goes first.
    """
    for old in keep.glob("run-*"):
        with (old / "lock").open("a") as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear(old)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=keep))
    sockets = Path(tempfile.mkdtemp(prefix="cu-"))  # their paths may not be long
    try:
        (folder / "sockets").write_text(str(sockets))
        with (folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder, sockets
    finally:
        _clear(folder)


def _clear(folder: Path) -> None:
    """Ends all processes of a run's Copper, and removes its folders."""
    with contextlib.suppress(OSError, NotFound):
        record = json.loads((folder / "node.json").read_text())
        alive = Alive(**record)
        if alive.is_there:
            alive.end()
    with contextlib.suppress(OSError):
        sockets = Path((folder / "sockets").read_text())
        if sockets.is_absolute():  # or it was not written any more
            for alive in strays(sockets, set()):
                alive.end()
            end_all(sockets)
            sweep(sockets)
            shutil.rmtree(sockets, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def end_all(folder: Path) -> None:
    """Ends every process whose command line names this folder, and what those begin meanwhile."""
    deadline = time.monotonic() + END_S
    while (found := _naming(folder)) and time.monotonic() < deadline:
        for alive in found:
            alive.end()


def _naming(folder: Path) -> list[Alive]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError, NotFound):
            if os.fsencode(folder) in path.read_bytes():
                found.append(Alive.of(int(path.parent.name)))
    return found


@contextlib.contextmanager
def a_place(settings: Settings, keep: Path, folder: Path, sockets: Path) -> Iterator[Place]:
    """Starts a Copper that knows the kept templates; at the end it and its VMs are gone."""
    state = folder / "state"
    if (keep / "images").exists():
        unfinished = shutil.ignore_patterns(".*")  # another run's template in the making
        shutil.copytree(keep / "images", state / "images", copy_function=os.link, ignore=unfinished)
    with contextlib.suppress(FileNotFoundError):
        shutil.copy(keep / "accelerator.json", state / "accelerator.json")
    mine = dataclasses.replace(settings, state_dir=state, run_dir=sockets)
    place = Place(mine, folder, start(mine, folder))
    try:
        yield place
    finally:
        _end(place)
        shutil.rmtree(state, ignore_errors=True)  # another place of this run begins anew


def start(
    settings: Settings, folder: Path, meanwhile: Callable[[], None] = lambda: None
) -> subprocess.Popen[bytes]:
    """Starts the Copper of a place; all is found again when this returns. Raises TimedOut.

    `meanwhile` is called while it starts.
    """
    ready, say = os.pipe()
    environment = {
        **os.environ,
        "COPPER_RUN_DIR": str(settings.run_dir),
        "COPPER_STATE_DIR": str(settings.state_dir),
        "COPPER_NATIVE_DIR": str(settings.native_dir),
        "COPPER_QEMU": settings.qemu,
        "COPPER_ACCEL": settings.accel,
        "COPPER_STANDBYS": str(settings.standbys),
        "COPPER_FAKE": "1" if settings.fake else "0",
        "COPPER_NETWORKS": ",".join(settings.networks),
        "COPPER_DNS": settings.dns,
        "COPPER_KEEP_FREE_MIB": str(settings.keep_free_mib),
        "COPPER_TRACE": settings.trace,
        "COPPER_CPU_RATIO": "1000",  # what is measured is the fork, not the refusal
        "COPPER_READY_FD": str(say),
    }
    with (folder / "copper.log").open("ab") as log, os.fdopen(ready) as starter:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "copper.node"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=[say],
                start_new_session=True,  # a Ctrl-C is the bench's, which ends it in order
            )
        finally:
            os.close(say)
        try:
            (folder / "node.json").write_text(json.dumps(dataclasses.asdict(Alive.of(process.pid))))
            meanwhile()
            there = select.select([starter], [], [], START_S)[0]
            if not there or starter.readline() != "ready\n":
                raise TimedOut(f"the bench's Copper did not start: {_tail(folder / 'copper.log')}")
        except BaseException:
            process.kill()
            process.wait()
            raise
    return process


def again(place: Place, *, keep_free_mib: int) -> None:
    """Ends this Copper, whose VMs run on, and starts it again with another reserve. Raises TimedOut."""
    place.process.send_signal(signal.SIGTERM)
    place.process.wait(END_S)
    place.settings = dataclasses.replace(place.settings, keep_free_mib=keep_free_mib)
    place.process = start(place.settings, place.folder)


def _end(place: Place) -> None:
    with contextlib.suppress(CopperError, OSError):
        for cluster in place.client.clusters():
            place.client.kill(cluster.name)
    place.process.send_signal(signal.SIGTERM)
    try:
        place.process.wait(END_S)
    except subprocess.TimeoutExpired:
        place.process.kill()
        place.process.wait()
    for alive in strays(place.settings.run_dir, set()):
        alive.end()
    sweep(place.settings.run_dir)


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").strip().splitlines()
        return lines[-1][-300:] if lines else "it said nothing"
    return "it said nothing"
