"""Suspended virtual clusters on disk: all of their VMs at one instant, as resume makes them again.

`suspended/CLUSTER/` holds `manifest.json`, `layers/ID` (each once, however many VMs share it; the template's own stays
with the template) and `devices/VM`. Files of disks stay where they are. It is written beside its place and renamed into
it, and renamed away before it is removed: it is there whole or not at all, and while it is there its VMs are suspended.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from copper.image.disks import check_room
from copper.image.layers import Layer, close_all, load_layer
from copper.image.machine import FORMAT, Image
from copper.image.store import ImageStore
from copper.model.api import VmLimits
from copper.model.errors import Conflict, Damaged, Foreign, NoRoom, NotFound
from copper.model.machine import Identity, Needs, Record, Shape
from copper.model.names import check_name
from copper.model.networks import Exposure
from copper.model.settings import Settings
from copper.vmm.layers import PAGE

_CHUNK = 1 << 22
_ZEROES = bytes(_CHUNK)


class SuspendedVm(Record):
    """One VM of a suspended cluster: who it is, what it stands on, what it was held to."""

    identity: Identity
    template: str
    paused: bool = False
    limits: VmLimits = VmLimits()
    reserved_bytes: int = 0
    machine_id: str = ""
    exposure: Exposure | None = None


class StoredVm(Record):
    """A suspended VM and what is stored of it."""

    vm: SuspendedVm
    shape: Shape
    needs: Needs
    layers: list[str] = Field(description="ids, the template's first")
    devices_sha256: str
    disks: list[Path]


class StoredLayer(Record):
    """A layer's file: its hash, its length, and what it takes on disk."""

    sha256: str
    bytes: int
    stored_bytes: int


class SuspendedCluster(Record):
    """What a suspended cluster consists of. `digest` covers all other fields."""

    format: int
    cluster: str
    created: float
    templates: dict[str, str] = Field(description="the id of each image that it stands on")
    layers: dict[str, StoredLayer]
    vms: list[StoredVm]
    digest: str = ""

    def own_digest(self) -> str:
        text = json.dumps(self.model_dump(mode="json", exclude={"digest"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def disks(self) -> set[Path]:
        """Every file that its VMs' disks consist of: nobody may remove them."""
        return {disk for stored in self.vms for disk in stored.disks}

    def layer_bytes(self) -> int:
        """Memory that its layers take when they are loaded."""
        return sum(stored.bytes for stored in self.layers.values())

    def sizes(self) -> dict[str, int]:
        """Bytes on disk by VM: a layer that several share counts for the first of them."""
        left = {layer: stored.stored_bytes for layer, stored in self.layers.items()}
        return {
            stored.vm.identity.name: sum(left.pop(layer, 0) for layer in stored.layers)
            for stored in self.vms
        }


class SuspendedStore:
    """The suspended clusters of one state directory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._images = ImageStore(settings)
        self.folder = settings.state_dir / "suspended"

    def clusters(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return sorted(path.name for path in self.folder.iterdir() if path.name[0] != ".")

    def halves(self) -> list[Path]:
        """Folders that an interrupted suspend or removal left."""
        return sorted(self.folder.glob(".*")) if self.folder.is_dir() else []

    def clear(self) -> None:
        """Removes what was left half written or half removed. Nobody may be storing meanwhile."""
        for path in self.halves():
            shutil.rmtree(path, ignore_errors=True)

    def manifest(self, cluster: str) -> SuspendedCluster:
        """Raises NotFound, or Damaged or Foreign with what is wrong."""
        check_name(cluster, "virtual cluster")
        what = f"the manifest of suspended {cluster}"
        try:
            written = json.loads((self.folder / cluster / "manifest.json").read_text())
        except FileNotFoundError:
            if (self.folder / cluster).is_dir():
                raise Damaged(f"{what} is missing") from None
            raise NotFound(f"virtual cluster {cluster} is not suspended on this host") from None
        except (OSError, ValueError) as error:
            raise Damaged(f"{what} cannot be read: {error}") from None
        found = written.get("format") if isinstance(written, dict) else None
        if isinstance(found, int) and found != FORMAT:
            raise Foreign(
                f"suspended {cluster} has format {found}, this Copper reads {FORMAT}",
                advice="use the Copper that suspended it",
            )
        try:
            manifest = SuspendedCluster.model_validate_json(json.dumps(written))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise Damaged(f"{what} is not valid: {where}: {first['msg']}") from None
        if manifest.digest != manifest.own_digest():
            raise Damaged(f"{what} is not what was written: its hash differs")
        return manifest

    def readable(self) -> list[SuspendedCluster]:
        """The manifests of all that can be read."""
        found = []
        for cluster in self.clusters():
            try:
                found.append(self.manifest(cluster))
            except Damaged:
                continue
        return found

    def has_damaged(self) -> bool:
        """Whether there is one of which nobody knows on what files it stands."""
        return len(self.readable()) < len(self.clusters())

    def check_unused(self, image: str) -> None:
        """Raises Conflict while a suspended cluster stands on this stored image."""
        users = [found.cluster for found in self.readable() if image in found.templates]
        if users:
            raise Conflict(
                f"image {image} is in use by suspended {', '.join(users[:5])}",
                advice="resume or delete them first",
            )

    def store(self, cluster: str, frozen: Sequence[tuple[SuspendedVm, Image]]) -> SuspendedCluster:
        """Writes frozen VMs, whole or not at all, durable on return. Raises NoRoom, Foreign."""
        check_name(cluster, "virtual cluster")
        templates = self._templates(frozen)
        layers = {layer.id: layer for _, image in frozen for layer in image.layers[1:]}
        wanted = sum(layer.bytes for layer in layers.values())
        wanted += sum(len(image.state) for _, image in frozen)
        self.folder.mkdir(parents=True, exist_ok=True)
        check_room(self.folder, self._settings.keep_disk_mib, wanted, f"suspending {cluster}")
        fresh = self.folder / f".{cluster}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            for name in ("layers", "devices"):
                (fresh / name).mkdir(parents=True)
            manifest = SuspendedCluster(
                format=FORMAT,
                cluster=cluster,
                created=time.time(),
                templates=templates,
                layers={
                    layer.id: write_sparse(layer.fd, fresh / "layers" / layer.id)
                    for layer in layers.values()
                },
                vms=[_write_vm(fresh / "devices", vm, image) for vm, image in frozen],
            )
            manifest = manifest.model_copy(update={"digest": manifest.own_digest()})
            _write_durable(fresh / "manifest.json", manifest.model_dump_json(indent=1).encode())
            disks = {disk for _, image in frozen for disk in image.disks}
            for disk in sorted(disks):
                if disk.parent == self._settings.disks_dir:
                    _sync(disk)
            for folder in (fresh / "layers", fresh / "devices", fresh, self._settings.disks_dir):
                _sync(folder)
            fresh.rename(self.folder / cluster)
            _sync(self.folder)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            raise NoRoom(f"{cluster} cannot be suspended: {error.strerror}") from error
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        return manifest

    def _templates(self, frozen: Sequence[tuple[SuspendedVm, Image]]) -> dict[str, str]:
        found: dict[str, str] = {}
        for vm, image in frozen:
            stored = found.setdefault(vm.template, self._images.manifest(vm.template).id)
            if stored != image.layers[0].id:
                name = vm.identity.name
                raise Foreign(f"VM {name} stands on an image {vm.template} that is not stored")
        return found

    def check(self, cluster: str) -> SuspendedCluster:
        """Its manifest, if the images that it stands on are those of then. Raises Foreign, NotFound, Damaged."""
        manifest = self.manifest(cluster)
        for name, wanted in manifest.templates.items():
            if self._images.manifest(name).id != wanted:
                raise Foreign(
                    f"virtual cluster {cluster} was suspended on another image {name}",
                    advice="delete the virtual cluster, or bring that image back",
                )
        return manifest

    def load(self, cluster: str, templates: Mapping[str, Image]) -> list[tuple[SuspendedVm, Image]]:
        """Every VM with its image in memory, layers that were shared shared again; the caller closes them.

        `templates`: the loaded images that it stands on. Raises NotFound, Damaged, Foreign.
        """
        manifest = self.check(cluster)
        folder = self.folder / cluster
        layers: dict[str, Layer] = {}
        made: list[tuple[SuspendedVm, Image]] = []
        try:
            for layer, stored in sorted(manifest.layers.items()):
                layers[layer] = load_layer(layer, folder / "layers" / layer, stored.sha256)
            for stored_vm in manifest.vms:
                made.append(self._image(folder, stored_vm, layers, templates))
        except BaseException:
            close_all(layer for _, image in made for layer in image.layers)
            raise
        finally:
            close_all(layers.values())
        return made

    def _image(
        self,
        folder: Path,
        stored: StoredVm,
        layers: Mapping[str, Layer],
        templates: Mapping[str, Image],
    ) -> tuple[SuspendedVm, Image]:
        name = stored.vm.identity.name
        for disk in stored.disks:
            if not disk.is_file():
                raise Damaged(f"the disk of suspended {name} is not whole: {disk} is missing")
        try:
            state = (folder / "devices" / name).read_bytes()
        except OSError as error:
            raise Damaged(
                f"the device state of suspended {name} cannot be read: {error.strerror}"
            ) from error
        held = {**layers, stored.layers[0]: templates[stored.vm.template].layers[0]}
        image = Image(
            id=f"{stored.layers[-1]}.{name}",
            shape=stored.shape,
            needs=stored.needs,
            layers=[held[layer].share() for layer in stored.layers],
            state=state,
            state_sha256=stored.devices_sha256,
            disks=tuple(stored.disks),
        )
        try:
            image.check_state()
        except Damaged:
            image.close()
            raise
        return stored.vm, image

    def discard(self, cluster: str) -> set[Path]:
        """Removes a suspended cluster, or does nothing; returns the files of disks that it stood on."""
        check_name(cluster, "virtual cluster")
        try:
            disks = self.manifest(cluster).disks()
        except (NotFound, Damaged):
            disks = set()
        gone = self.folder / f".{cluster}.gone"
        shutil.rmtree(gone, ignore_errors=True)
        try:
            (self.folder / cluster).rename(gone)
        except FileNotFoundError:
            return disks
        _sync(self.folder)
        shutil.rmtree(gone, ignore_errors=True)
        return disks


def _write_vm(folder: Path, vm: SuspendedVm, image: Image) -> StoredVm:
    _write_durable(folder / vm.identity.name, image.state)
    return StoredVm(
        vm=vm,
        shape=image.shape,
        needs=image.needs,
        layers=[layer.id for layer in image.layers],
        devices_sha256=image.state_sha256,
        disks=list(image.disks),
    )


def write_sparse(fd: int, path: Path) -> StoredLayer:
    """Copies a layer to disk, zero pages as holes, durable on return. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("xb") as out:
        offset = 0
        while chunk := os.pread(fd, _CHUNK, offset):
            digest.update(chunk)
            for start, end in _full(chunk):
                os.pwrite(out.fileno(), chunk[start:end], offset + start)
            offset += len(chunk)
        out.truncate(offset)
        os.fsync(out.fileno())
        stored = os.fstat(out.fileno()).st_blocks * 512
    return StoredLayer(sha256=digest.hexdigest(), bytes=offset, stored_bytes=stored)


def _full(chunk: bytes) -> Iterable[tuple[int, int]]:
    """The parts of a chunk that are not zero pages."""
    if chunk == _ZEROES:
        return
    view, zero, begin = memoryview(chunk), memoryview(_ZEROES), None
    for at in range(0, len(chunk), PAGE):
        page = view[at : at + PAGE]
        if page == zero[: len(page)]:
            if begin is not None:
                yield begin, at
            begin = None
        elif begin is None:
            begin = at
    if begin is not None:
        yield begin, len(chunk)


def _write_durable(path: Path, data: bytes) -> None:
    with path.open("xb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
