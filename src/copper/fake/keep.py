"""A room on disk: its machines outlive the process that simulates them, as QEMUs outlive a host agent."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from copper.fake.process import FakeImage, FakeProcess, Layer
from copper.host.records import FileRecords
from copper.image.suspended import SuspendedVm
from copper.model.errors import NoRoom
from copper.model.machine import Record, Shape
from copper.model.networks import Exposure


class _KeptMachine(Record):
    """A machine that runs: its memory's layers in bytes, the lowest first."""

    pid: int
    name: str
    shape: Shape
    layers: list[int]
    exposure: Exposure | None = None


class _KeptImage(Record):
    """A suspended VM."""

    vm: SuspendedVm
    shape: Shape
    layers: list[int]


class Keep:
    """Files of one room: its machines are gone when the host is switched off, suspended clusters are not."""

    def __init__(self, run_dir: Path, state_dir: Path) -> None:
        self._machines, self._suspended = run_dir, state_dir / "suspended"
        self.records = FileRecords(state_dir / "vms")
        for folder in (self._machines, self._suspended):
            folder.mkdir(parents=True, exist_ok=True)

    def write(self, process: FakeProcess) -> None:
        """Raises NoRoom."""
        kept = _KeptMachine(
            pid=process.pid,
            name=process.name,
            shape=process.shape,
            layers=_sizes(process.layers),
            exposure=process.exposure,
        )
        _write(self._machines / f"{process.unit}.json", kept.model_dump_json())

    def remove(self, process: FakeProcess) -> None:
        (self._machines / f"{process.unit}.json").unlink(missing_ok=True)

    def write_cluster(self, cluster: str, stored: Sequence[tuple[SuspendedVm, FakeImage]]) -> None:
        """Raises NoRoom."""
        kept = [
            _KeptImage(vm=vm, shape=image.shape, layers=_sizes(image.layers)).model_dump(
                mode="json"
            )
            for vm, image in stored
        ]
        _write(self._suspended / f"{cluster}.json", json.dumps(kept))

    def remove_cluster(self, cluster: str) -> None:
        (self._suspended / f"{cluster}.json").unlink(missing_ok=True)

    def machines(self) -> list[FakeProcess]:
        """Those that were kept, their processors stopped; layers are shared where they had the same place and size."""
        found, shared = [], _Shared()
        for path in sorted(self._machines.glob("*.json")):
            with contextlib.suppress(OSError, ValueError):
                kept = _KeptMachine.model_validate_json(path.read_bytes())
                layers = shared.layers(kept.layers)
                process = FakeProcess(kept.pid, kept.name, kept.shape, layers)
                process.exposure = kept.exposure
                found.append(process)
        return found

    def clusters(self) -> dict[str, list[tuple[SuspendedVm, FakeImage]]]:
        """Suspended virtual clusters."""
        found: dict[str, list[tuple[SuspendedVm, FakeImage]]] = {}
        for path in sorted(self._suspended.glob("*.json")):
            with contextlib.suppress(OSError, ValueError):
                shared = _Shared()
                found[path.stem] = [
                    (kept.vm, FakeImage("", kept.shape, shared.layers(kept.layers)))
                    for kept in map(_KeptImage.model_validate, json.loads(path.read_bytes()))
                ]
        return found


class _Shared:
    """Layers that begin as others do are the same ones."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], Layer] = {}

    def layers(self, sizes: Sequence[int]) -> tuple[Layer, ...]:
        return tuple(
            self._known.setdefault(tuple(sizes[: at + 1]), Layer(size))
            for at, size in enumerate(sizes)
        )


def _sizes(layers: Iterable[Layer]) -> list[int]:
    return [layer.bytes for layer in layers]


def _write(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    try:
        fresh.write_text(text)
        fresh.rename(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise NoRoom(f"a fake machine cannot be kept: {error.strerror}") from error
