"""`copper demo`: from an installed Copper to ten forked machines that answer."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from copper.cli import here
from copper.cli.output import say
from copper.cli.steps import Steps
from copper.model.errors import CopperError

if TYPE_CHECKING:
    from copper.cli.forking import Forked
    from copper.client import Client
    from copper.model.settings import Settings

CLUSTER = "demo"
IMAGE = RECIPE = "debian-12"
CLONES = 9
CPU_RATIO = 32.0  # of a Copper that is started here: these machines are idle


@click.command()
def demo() -> None:
    """Fork a running Debian machine, nine times at once.

    Starts Copper, builds the image debian-12 unless it is there, boots the virtual cluster `demo`
    (one of an earlier demo is ended first), stores a value in its master's memcached, and runs
    `gc clone 9` in the master. Each of the ten machines is then asked for the value.
    """
    from copper.cli.forking import fork, stored
    from copper.cli.node.up import ensure_up
    from copper.client import Client

    settings = here.settings()
    client = Client(settings)
    steps = Steps()
    with steps.step("starting Copper"):
        ensure_up(dataclasses.replace(settings, cpu_ratio=max(settings.cpu_ratio, CPU_RATIO)))
    _end_earlier(client, steps)
    _ready_image(settings, steps)
    # asked now: the first image that is booted decides it
    accelerator = client.health().accelerator
    how = {"kvm": "with KVM", "tcg": "emulated"}.get(accelerator, accelerator)
    with steps.step(f"booting {CLUSTER} from its image, {how}"):
        client.create(CLUSTER, IMAGE)
        master = client.boot(CLUSTER).name
    with steps.step("storing a value in its memcached"):
        value = stored(client, master)
    with steps.step(f"gc clone {CLONES}, and asking all {CLONES + 1}"):
        forked = fork(client, CLUSTER, master, CLONES)
    _tell(forked, value)


def _end_earlier(client: Client, steps: Steps) -> None:
    if all(cluster.name != CLUSTER for cluster in client.clusters()):
        return
    with steps.step(f"ending {CLUSTER} of an earlier demo"):
        client.kill(CLUSTER)
        client.delete(CLUSTER)


def _ready_image(settings: Settings, steps: Steps) -> None:
    """Builds the image, unless there is one that this machine can thaw and that is no older than
    what it was made of."""
    from copper.host.template import build_template
    from copper.image.build.recipes import load
    from copper.image.store import ImageStore
    from copper.vmm.capabilities import accelerator_verdict, needs_of, probe_qemu

    qemu = probe_qemu(settings)
    try:
        manifest = ImageStore(settings).manifest(IMAGE)
        recipe = load(RECIPE)
        sources = [
            settings.native_dir / "guest" / "gridcentric",
            *(path for path in recipe.directory.rglob("*") if path.is_file()),
        ]
        newest = max(path.stat().st_mtime for path in sources)
        needs = needs_of(qemu, accelerator_verdict(settings, qemu).accelerator)
        if manifest.recipe == RECIPE and manifest.needs == needs and newest <= manifest.created:
            return
    except (CopperError, OSError):
        pass  # there is none, it is damaged, or the build will say what is missing
    build_template(settings, IMAGE, RECIPE, replace=True, progress=steps)


def _tell(forked: Forked, value: str) -> None:
    machines = forked.machines
    wrong = [machine.name for machine in machines if machine.value != value]
    pause = "?" if forked.pause_ms is None else f"{forked.pause_ms:.1f}"
    say("")
    say(f"The master stood still for {pause} ms while it was forked. These are {len(machines)}")
    say("machines now, and this is what the memcached of each has for the key `copper`:")
    say("")
    say(f"{'machine':9} {'vmid':>4}  {'value':24} {'first answer':>12} {'memory of its own':>18}")
    for machine in machines:
        answered = f"{machine.answered_ms:.0f} ms"
        own = f"{machine.own_bytes / (1 << 20):.1f} MiB"
        say(f"{machine.name:9} {machine.vmid:4}  {machine.value:24} {answered:>12} {own:>18}")
    say("")
    say("First answer: from the call, before `gc clone 9` was sent to the master, until the value")
    say(
        f"had come back; measured on the host. The call returned after {forked.returned_ms:.0f} ms."
    )
    if wrong:
        raise CopperError(f"{', '.join(wrong)}: not the stored value")
    say("")
    say("Try next:")
    if where := _not_on_path():
        say(f"  export PATH={where}:$PATH")
    say("  gc-vm list demo                      the ten machines")
    say("  gc-vm exec -t demo-3 -- bash         a shell in one of them")
    say("  gc-vm exec demo-3 -- gc clone 2      a clone forks as well as its master")
    say("  gc-vm console demo-1                 its serial line; Ctrl-] leaves")
    say("The end: copper down")


def _not_on_path() -> str:
    """The folder of these commands, when the user's shell would not find them in it."""
    folder = Path(sys.argv[0]).resolve().parent
    found = shutil.which("gc-vm")
    if found and Path(found).resolve().parent == folder:
        return ""
    return str(folder) if os.access(folder / "gc-vm", os.X_OK) else ""
