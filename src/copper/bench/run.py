"""How a bench with kinds and one guest runs: its template, its Copper, its results, and the end of all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from copper.bench import machine, place
from copper.bench.interrupts import ended_in_order
from copper.bench.measured import R, written_at_end
from copper.bench.place import Place
from copper.bench.progress import Progress
from copper.bench.stats import Guest
from copper.model.settings import Settings
from copper.vmm.capabilities import probe_qemu

OUT = Path("bench")  # when nobody says where


def facts(settings: Settings) -> dict[str, object]:
    """Of this machine, before a template's guest has shown anything of KVM."""
    return machine.facts(settings, probe_qemu(settings))


@contextmanager
def a_run(
    results: R,
    report: Callable[[R], str],
    path: Path,
    guest: Guest,
    settings: Settings,
    progress: Progress,
    *,
    traced: bool = False,
) -> Iterator[Place]:
    """A Copper that has the guest's template; at the end the results are in `path` and printed, and nothing is left.

    `traced`: it writes a trace into its folder (copper.wire.trace). Raises whatever keeps it from beginning.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    keep = place.keep_folder(settings)
    with ended_in_order(), written_at_end(results, path, report, progress):
        with place.run_folders(keep) as (folder, sockets):
            template = place.ready_template(settings, keep, sockets, guest, progress)
            results.machine = facts(dataclasses.replace(settings, state_dir=keep))
            if traced:
                settings = dataclasses.replace(settings, trace=str(folder / "trace.json"))
            with place.a_place(settings, keep, folder, sockets) as where:
                where.template = template
                yield where
