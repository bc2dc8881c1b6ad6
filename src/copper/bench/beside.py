"""One guest's peers, measured in turn with its forks, and why one of them is missing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import re
import subprocess
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from typing import Any

from copper.bench import kinds
from copper.bench.criu import Criu
from copper.bench.peers import Peers
from copper.bench.place import Template
from copper.bench.stats import Samples
from copper.bench.virsh import Virsh
from copper.model.errors import CopperError, NotFound
from copper.vmm.capabilities import Qemu

SLOW_MS, SLOW_RUNS = 8_000, 10  # what takes longer is measured so often


@dataclasses.dataclass(frozen=True)
class _Peer:
    """`measure` gives milliseconds, one for each of the kinds."""

    kinds: tuple[str, ...]
    prepare: Callable[[], Coroutine[Any, Any, None]]
    measure: Callable[[], Coroutine[Any, Any, float | tuple[float, ...]]]
    after: str = ""  # the kind whose preparation this one stands on


class Beside:
    """The peers that every run has, and those that this one was asked for, of kinds.ON_REQUEST."""

    def __init__(
        self,
        qemu: Qemu,
        template: Template,
        folder: Path,
        sockets: Path,
        samples: Samples,
        asked: Collection[str],
    ) -> None:
        """Boots and stores what they start from. What cannot be is missing in every round."""
        peers = Peers(qemu, template, folder)
        virsh = Virsh(qemu, template, peers.settled, folder, sockets / "libvirt")
        criu = Criu(template.manifest.memory_bytes, folder, sockets)
        copies = functools.partial(peers.copy_snapshot, kinds.CLONES)
        of_virsh = (kinds.VIRSH_RESTORE, kinds.VIRSH_SAVE)
        of_criu = (kinds.CRIU_DUMP, kinds.CRIU_RESTORE)
        on_request = {
            "loadvm-many": _Peer((kinds.LOADVM_MANY,), copies, peers.load_many, kinds.LOADVM),
            "virsh": _Peer(of_virsh, virsh.prepare, virsh.round, kinds.COLD),
            "criu": _Peer(of_criu, criu.prepare, criu.round),
        }
        self._guest = template.guest
        self._samples = samples
        self._broken: dict[str, str] = {}
        self._peers = [
            _Peer((kinds.COLD,), peers.settle, peers.cold_boot),
            _Peer((kinds.LOADVM,), peers.snapshot, peers.load, after=kinds.COLD),
            *(peer for name, peer in on_request.items() if name in asked),
        ]
        for peer in self._peers:
            self._prepare(peer)

    def _prepare(self, peer: _Peer) -> None:
        why = self._broken.get(peer.after)
        if why is None:
            try:
                asyncio.run(peer.prepare())
                return
            except NotFound as error:  # a program, not what it did
                why = str(error)
            except CopperError as error:
                why = f"it could not be prepared: {error}"
        self._broken |= dict.fromkeys(peer.kinds, why)

    def round(self) -> None:
        """Measures each of them once."""
        for peer in self._peers:
            self._measure(peer)

    def _measure(self, peer: _Peer) -> None:
        why = self._broken.get(peer.kinds[0])
        if why is None and self._are_enough(peer):
            return
        try:
            if why is not None:
                raise CopperError(why)
            found = asyncio.run(peer.measure())
        except CopperError as error:
            for kind in peer.kinds:
                self._samples.lacks(self._guest, "-", kind, str(error))
            return
        values = found if isinstance(found, tuple) else (found,)
        for kind, value in zip(peer.kinds, values, strict=True):
            self._samples.add(self._guest, "-", kind, value)

    def _are_enough(self, peer: _Peer) -> bool:
        """Each takes so long that there are samples enough."""
        found = [self._samples.get(self._guest, "-", kind) for kind in peer.kinds]
        there = [one for one in found if one is not None]
        if not there or min(one.n for one in there) < SLOW_RUNS:
            return False
        each = sum(one.p50 for one in there)
        if each <= SLOW_MS:
            return False
        for kind in peer.kinds:
            self._samples.explain_fewer(self._guest, "-", kind, f"each takes {each / 1000:.0f} s")
        return True


def versions(asked: Collection[str]) -> dict[str, object]:
    """Of the programs that these peers are, those that are installed."""
    found: dict[str, object] = {}
    for name in ("virsh", "criu"):
        if name not in asked:
            continue
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            said = subprocess.run(
                [name, "--version"], capture_output=True, text=True, timeout=10, check=False
            )
            number = re.search(r"\d+(\.\d+)+", said.stdout)
            found[name] = number[0] if number else "?"
    return found
