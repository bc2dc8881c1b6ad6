"""One round with one guest: a virtual cluster is booted, forked in all ways, and ended."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager

from copper.bench import kinds
from copper.bench.calls import BUSY_BEGINS, WORK, Shell, a_shell, answered, fork
from copper.bench.memory import MB, private_mb
from copper.bench.place import Place
from copper.bench.stats import Guest, Load, Samples
from copper.model.api import Frozen
from copper.model.errors import CopperError

SETTLED_S = (
    1.0  # after its first answer a clone is left alone for so long before its memory is counted
)


class Session:
    """Measures one guest under one load. What fails is written down, and the rest goes on."""

    def __init__(self, place: Place, samples: Samples, guest: Guest, load: Load) -> None:
        self._place = place
        self._samples = samples
        self._guest = guest
        self._load = load
        self._cluster = f"{guest.image}-{load}"[:40].rstrip("-")

    def run(self, *, deep: bool) -> None:
        """One round; `deep`: with a chain of forks, each of the one before."""
        with self._said("the round"), self._booted() as master:
            with a_shell(self._place, master) as shell:
                if self._load == "busy":
                    shell.ask(BUSY_BEGINS)
                self._rest()
                for _ in range(2):  # the first one also finds the program in the guest's files
                    started = time.perf_counter()
                    shell.ask("gc vmid")
                    trip = (time.perf_counter() - started) * 1000
                self._add(kinds.TRIP, trip)
                started = time.perf_counter()
                self._add(kinds.REQUEST, (answered(self._place, master) - started) * 1000)
                with self._said(kinds.CLONE_ANSWER):
                    self._one(shell)
                with self._said(kinds.CLONES_ANSWER):
                    self._many(shell)
                with self._said(kinds.FREEZE_PAUSE):
                    self._freeze(master)
            if deep:
                with self._said(kinds.of_generation(kinds.DEEPEST, "first answer")):
                    self._generations(master)

    @contextmanager
    def _booted(self) -> Iterator[str]:
        client = self._place.client
        client.create(self._cluster, self._guest.image)
        try:
            self._place.rest(quiet=True)
            started = time.perf_counter()
            name = client.boot(self._cluster).name
            if self._load == "idle":
                self._add(kinds.BOOT, (time.perf_counter() - started) * 1000)
            yield name
        finally:
            client.kill(self._cluster)
            client.delete(self._cluster)

    def _one(self, shell: Shell) -> None:
        client = self._place.client
        forked = fork(self._place, shell, 1)
        (clone,) = forked.clones
        self._add(kinds.PAUSE, client.status(shell.vm).last_pause_ms or 0)
        self._add(kinds.CLONE_ANSWER, forked.ready_ms[0])
        self._add(kinds.CLONE_REQUEST, forked.answered_ms[0])
        self._add(kinds.CLONE_RETURN, forked.returned_ms)
        self._place.wait(SETTLED_S)
        status = client.status(clone)
        self._add_mb(kinds.OWN_IDLE, status.own_bytes / MB)
        self._add_mb(kinds.OWN_IDLE_SMAPS, private_mb(status.pid))
        if self._load == "idle":
            self._add_mb(kinds.LAYER_IDLE, self._frozen(clone).layer_bytes / MB)
        with a_shell(self._place, clone) as inside:
            self._rest()
            second = fork(self._place, inside, 1)
            self._add(kinds.FORK_OF_FORK, second.ready_ms[0])
            client.end(second.clones[0])
            if self._load == "idle":
                inside.ask(WORK)
                self._add_mb(kinds.OWN_WORKED, client.status(clone).own_bytes / MB)
        client.end(clone)

    def _generations(self, master: str) -> None:
        """A chain of forks; each VM is ended once its clone was measured, so that as many run at every depth."""
        client = self._place.client
        parent = master
        for number in range(1, kinds.DEEPEST + 1):
            of = functools.partial(kinds.of_generation, number)
            with a_shell(self._place, parent) as shell:
                self._rest()
                forked = fork(self._place, shell, 1)
                self._add(of("pause"), client.status(parent).last_pause_ms or 0)
            client.end(parent)
            (parent,) = forked.clones
            self._add(of("thaw"), client.status(parent).ready_ms)
            self._add(of("first answer"), forked.ready_ms[0])
        self._rest()
        self._add_mb(kinds.LAYER_DEEP, self._frozen(parent).layer_bytes / MB)

    def _many(self, shell: Shell) -> None:
        self._rest()
        forked = fork(self._place, shell, kinds.CLONES)
        self._add(kinds.CLONES_PAUSE, self._place.client.status(shell.vm).last_pause_ms or 0)
        self._add(kinds.CLONES_ANSWER, max(forked.answered_ms))
        self._add(kinds.CLONES_RETURN, forked.returned_ms)
        for name in forked.clones:
            self._place.client.end(name)

    def _freeze(self, master: str) -> None:
        self._rest()
        frozen = self._frozen(master)
        self._add(kinds.FREEZE_PAUSE, frozen.pause_ms)
        for name in kinds.STEPS:
            if name in frozen.steps:
                self._add(kinds.step(name), frozen.steps[name])

    def _frozen(self, vm: str) -> Frozen:
        """Freezes a VM, and lets go of the image at once."""
        frozen = self._place.client.freeze(vm)
        self._place.client.call("DELETE", f"/host/v1/frozen/{frozen.image}")
        return frozen

    def _rest(self) -> None:
        self._place.rest(quiet=self._load == "idle")

    def _add(self, kind: str, value: float) -> None:
        self._samples.add(self._guest, self._load, kind, value)

    def _add_mb(self, kind: str, value: float) -> None:
        self._samples.add(self._guest, self._load, kind, value, "MB")

    @contextmanager
    def _said(self, kind: str) -> Iterator[None]:
        try:
            yield
        except CopperError as error:
            self._samples.lacks(self._guest, self._load, kind, str(error))
