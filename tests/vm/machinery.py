"""What tests with real virtual machines stand on: a Copper of their own, and proof that nothing of it is left."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from copper.client import Client
from copper.host.cgroup_layout import find_layout
from copper.host.cgroups import instance_of, sweep
from copper.model.settings import Settings, from_environment
from copper.net import namespaces
from copper.net.nft import Nft

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = Path(sys.executable).parent
DEADLINE_S = 600


@dataclasses.dataclass
class Copper:
    """One Copper with folders of its own, and its process."""

    settings: Settings
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> Client:
        return Client(self.settings)

    @property
    def log(self) -> Path:
        return self.settings.state_dir / "copper.log"

    def run(
        self, *argv: str, stdin: bytes | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """A command as a user would give it."""
        done = subprocess.run(
            [str(COMMANDS / argv[0]), *argv[1:]],
            input=stdin if stdin is not None else b"",
            capture_output=True,
            env={**os.environ, **self.environment},
            timeout=DEADLINE_S,
            check=False,
        )
        if check:
            assert done.returncode == 0, (
                f"{' '.join(argv)}: {done.returncode}\n{done.stderr.decode()}"
            )
        return done

    def sh(self, vm: str, script: str) -> str:
        """What a shell in a VM prints."""
        return self.exec(vm, "sh", "-c", script)

    def everywhere(self, vms: Sequence[str], script: str, *, at_once: int = 4) -> list[str]:
        """What the same script prints in each of them."""
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda vm: self.sh(vm, script), vms))

    def exec(self, vm: str, *argv: str) -> str:
        """What a command in a VM prints; it must succeed."""
        done = self.client.run(vm, list(argv))
        assert done.status == 0, f"{vm}: {argv}: {done.status}\n{done.stdout!r}\n{done.stderr!r}"
        return done.stdout.decode()

    def start(self) -> None:
        """Starts the daemon; returns when it serves."""
        ready, say = os.pipe()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "copper.node"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment, "COPPER_READY_FD": str(say)},
                pass_fds=[say],
            )
        os.close(say)
        with os.fdopen(ready) as starter:
            there, _, _ = select.select([starter], [], [], DEADLINE_S)
            assert there and starter.readline() == "ready\n", self.log.read_text()[-3000:]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends the daemon; VMs run on."""
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(DEADLINE_S)
        self.process = None

    def boot(self, cluster: str, image: str) -> str:
        """Creates and boots a virtual cluster; returns the name of its master."""
        self.client.create(cluster, image)
        return self.client.boot(cluster).name

    def clone(self, vm: str, count: int) -> list[str]:
        """`gc clone` in a VM; returns the names of the clones."""
        cluster = vm.rpartition("-")[0]
        before = self.vms(cluster)
        assert self.exec(vm, "gc", "clone", str(count)) == "0\n"
        made = [name for name in self.vms(cluster) if name not in before]
        assert len(made) == count
        return made

    def vms(self, cluster: str) -> list[str]:
        return [vm.name for vm in self.client.vms(cluster)]

    def qemus(self) -> list[int]:
        """QEMU processes of this Copper."""
        units = {unit.name for unit in (self.settings.run_dir / "q").glob("*")}
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    argv = (entry / "cmdline").read_bytes().split(b"\0")
                    if any(
                        a.decode(errors="replace").removeprefix("copper-") in units for a in argv
                    ):
                        found.append(int(entry.name))
        return found

    def networks(self) -> list[str]:
        """The virtual clusters of this Copper that have a network namespace."""
        prefix = f"copper-{instance_of(self.settings.run_dir)[:6]}-"
        return [name.removeprefix(prefix) for name in namespaces.names(prefix)]

    def ways_out(self) -> list[str]:
        """What leads from the host to public addresses."""
        instance = instance_of(self.settings.run_dir)[:6]
        ways = [name for name in namespaces.names(f"copper-{instance}") if name.count("-") == 1]
        ways += [name for _, name in socket.if_nameindex() if name == f"cp-{instance}"]
        return ways + [line for line in Nft().run("list tables").split('"') if instance in line]

    def leftovers(self) -> list[str]:
        """All that must be gone when no virtual cluster runs and the daemon has ended."""
        left = [f"QEMU {pid}" for pid in self.qemus()]
        left += [str(path) for path in (self.settings.run_dir / "q").glob("*")]
        left += [str(path) for path in self.settings.disks_dir.glob("*")]
        left += [str(path) for path in self.settings.vms_dir.glob("*")]
        left += [str(path) for path in self.settings.images_dir.glob(".*")]
        left += [str(path) for path in (self.settings.state_dir / "suspended").glob("*")]
        left += [f"the namespace of {cluster}" for cluster in self.networks()]
        left += self.ways_out()
        layout = find_layout()
        for root in layout.roots() if layout is not None else ():
            groups = root / "copper" / instance_of(self.settings.run_dir)
            left += [str(path) for path in groups.glob("*") if path.is_dir()]
        left += [
            line
            for line in Path("/proc/mounts").read_text().splitlines()
            if str(self.settings.run_dir) in line
        ]
        return left


def images_folder() -> Path:
    """Where the tests' images are built once and kept, beside the other things that are built."""
    return ROOT / "build" / "test-state"


def _link_images(folder: Path, to: Path) -> None:
    """Links all images; begins anew when one was replaced meanwhile by another worker's build."""
    hidden = shutil.ignore_patterns(".*")  # what another build is at
    while True:
        try:
            shutil.copytree(folder, to, copy_function=os.link, ignore=hidden)
            return
        except (FileNotFoundError, shutil.Error):
            shutil.rmtree(to, ignore_errors=True)


@contextlib.contextmanager
def a_copper(accel: str, *, state: Path | None = None, **variables: str) -> Iterator[Copper]:
    """A running Copper that shares the tests' images, or has those that `state` has already.

    At its end nothing of it may be left.
    """
    run = Path(tempfile.mkdtemp(prefix="cu-"))
    given = state is not None
    state = state or Path(tempfile.mkdtemp(prefix="copper-state-"))
    environment = {
        "COPPER_RUN_DIR": str(run),
        "COPPER_STATE_DIR": str(state),
        "COPPER_ACCEL": accel,
        "COPPER_CPU_RATIO": "1000",
        "COPPER_CLONE_DEADLINE_S": "300",  # a machine that is busy with other tests is slow, not broken
        "PATH": f"{COMMANDS}:{os.environ['PATH']}",
        **variables,
    }
    shared = images_folder()
    if (shared / "images").is_dir() and not given:
        _link_images(shared / "images", state / "images")
    with contextlib.suppress(FileNotFoundError):
        shutil.copy(shared / "accelerator.json", state / "accelerator.json")
    copper = Copper(from_environment(environment), environment)
    try:
        copper.start()
        yield copper
        if copper.process is None:
            copper.start()
        for cluster in copper.client.clusters():
            copper.client.kill(cluster.name)
        copper.stop()
        left = copper.leftovers()
        assert left == [], left
    except BaseException:
        if copper.log.exists():
            print(copper.log.read_text()[-6000:])
        raise
    finally:
        if copper.process is not None:
            copper.process.kill()
            copper.process.wait()
        for pid in copper.qemus():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        sweep(run)
        shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(state, ignore_errors=True)
