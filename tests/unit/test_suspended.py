"""Suspended clusters on disk: whole or not at all, each layer once, refused when they are not what was written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from copper.image.layers import Layer, close_all
from copper.image.machine import FORMAT, Image
from copper.image.store import Manifest
from copper.image.suspended import SuspendedStore, SuspendedVm, write_sparse
from copper.model.api import VmLimits
from copper.model.errors import BadInput, Conflict, Damaged, Foreign, NoRoom, NotFound
from copper.model.machine import Identity, Needs, Shape
from copper.model.settings import Settings
from copper.vmm.layers import PAGE, is_sealed, new_layer, seal

SHAPE = Shape(memory_mib=64, cpus=1, disk_bytes=1 << 20)
NEEDS = Needs(qemu="7.2.22", machine="pc-q35-7.2", accelerator="tcg", processor="qemu64")
Frozen = list[tuple[SuspendedVm, Image]]


def layer(layer_id: str, pages: list[bytes]) -> Layer:
    """A sealed layer that holds these pages from the beginning of memory."""
    body = b"".join(page * PAGE for page in pages)
    index = struct.pack("<QQQ", 0, len(body), PAGE)
    header = struct.pack(
        "<8sIIQQQQ", b"COPPERL1", 1, PAGE, SHAPE.memory_bytes, 1, PAGE + len(body), len(pages)
    )
    fd = new_layer(layer_id)
    os.write(fd, header.ljust(PAGE, b"\0") + body + index)
    seal(fd)
    return Layer(layer_id, fd)


class Place:
    """A state directory with an image `base`, and frozen VMs over it."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(state_dir=folder, run_dir=folder / "run", keep_disk_mib=0)
        self.settings.disks_dir.mkdir()
        self.template("1-base")
        self.base = layer("1-base", [b"b"])
        self.store = SuspendedStore(self.settings)
        self._held = [self.base]

    def template(self, image_id: str) -> None:
        folder = self.settings.images_dir / "base"
        folder.mkdir(parents=True, exist_ok=True)
        manifest = Manifest(
            format=FORMAT, id=image_id, name="base", recipe="micro", recipe_digest="", created=0,
            shape=SHAPE, needs=NEEDS, memory_sha256="", memory_bytes=0, devices_sha256="",
            devices_bytes=0, disk_sha256="", disk_bytes=0,
        ).sealed()  # fmt: skip
        (folder / "manifest.json").write_text(manifest.model_dump_json())

    def frozen(self, *vms: tuple[str, list[Layer]]) -> Frozen:
        """Each VM with the layers above the image's."""
        made = []
        for name, layers in vms:
            disk = self.settings.disks_dir / f"{name}.qcow2"
            disk.write_bytes(b"disk")
            image = Image(
                id=layers[-1].id,
                shape=SHAPE,
                needs=NEEDS,
                layers=[held.share() for held in (self.base, *layers)],
                state=name.encode() * 10,
                state_sha256=hashlib.sha256(name.encode() * 10).hexdigest(),
                disks=(self.settings.images_dir / "base" / "disk.qcow2", disk),
            )
            disk_of_base = image.disks[0]
            disk_of_base.touch()
            cluster, _, vmid = name.rpartition("-")
            identity = Identity(cluster=cluster, vmid=int(vmid), name=name, ip="10.0.0.1")
            vm = SuspendedVm(
                identity=identity,
                template="base",
                limits=VmLimits(cpus=2),
                reserved_bytes=5,
            )
            made.append((vm, image))
            self._held += [*layers, *image.layers]
        return made

    def loaded(self, cluster: str) -> Frozen:
        image = Image("1-base", SHAPE, NEEDS, [self.base], b"", "", ())
        found = self.store.load(cluster, {"base": image})
        self._held += [held for _, made in found for held in made.layers]
        return found

    def family(self) -> Frozen:
        """A master and two clones that share a layer."""
        shared = layer("2-shared", [b"s", b"\0", b"\0", b"s"])
        return self.frozen(
            ("a-0", [shared, layer("3-a", [b"x"])]),
            ("a-1", [shared, layer("4-b", [b"y"])]),
            ("a-2", [shared]),
        )

    def close(self) -> None:
        close_all(self._held)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def test_a_cluster_comes_back_as_it_was_stored(place: Place) -> None:
    stored = place.family()
    place.store.store("a", stored)
    assert place.store.clusters() == ["a"]
    back = place.loaded("a")
    assert [vm for vm, _ in back] == [vm for vm, _ in stored]
    for (_, was), (_, now) in zip(stored, back, strict=True):
        assert (now.state, now.state_sha256, now.disks) == (was.state, was.state_sha256, was.disks)
        assert [held.id for held in now.layers] == [held.id for held in was.layers]
        assert (now.shape, now.needs) == (was.shape, was.needs)
        for one, other in zip(was.layers, now.layers, strict=True):
            assert os.pread(one.fd, 1 << 20, 0) == os.pread(other.fd, 1 << 20, 0)
            assert is_sealed(other.fd)
    assert len({image.id for _, image in back}) == 3


def test_what_was_shared_is_stored_once_and_shared_again(place: Place) -> None:
    manifest = place.store.store("a", place.family())
    folder = place.store.folder / "a"
    assert sorted(path.name for path in (folder / "layers").iterdir()) == [
        "2-shared", "3-a", "4-b",
    ]  # fmt: skip
    files = {os.fstat(image.layers[1].fd).st_ino for _, image in place.loaded("a")}
    assert len(files) == 1
    sizes = manifest.sizes()
    assert sum(sizes.values()) == sum(stored.stored_bytes for stored in manifest.layers.values())
    assert sizes["a-2"] == 0  # all that it stands on is counted for those before it


def test_zero_pages_take_no_disk(place: Place, tmp_path: Path) -> None:
    held = layer("9-x", [b"x", *[b"\0"] * 3000, b"y"])
    stored = write_sparse(held.fd, tmp_path / "layer")
    raw = os.pread(held.fd, 1 << 30, 0)
    assert (tmp_path / "layer").read_bytes() == raw
    assert stored.sha256 == hashlib.sha256(raw).hexdigest()
    assert stored.bytes == len(raw) > 11 << 20
    assert stored.stored_bytes < 1 << 20
    held.close()


def test_what_a_suspended_cluster_stands_on_is_in_use(place: Place) -> None:
    stored = place.store.store("a", place.family())
    disks = {place.settings.disks_dir / f"a-{n}.qcow2" for n in range(3)}
    assert stored.disks() > disks
    assert place.store.readable() == [stored]
    with pytest.raises(Conflict, match="image base is in use by suspended a"):
        place.store.check_unused("base")
    place.store.check_unused("other")
    assert place.store.discard("a") > disks
    place.store.check_unused("base")
    assert place.store.clusters() == []
    assert place.store.discard("a") == set()  # again: nothing to do


def test_a_store_that_fails_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("copper.image.suspended._write_durable", full)
    with pytest.raises(NoRoom, match="No space left"):
        place.store.store("a", place.family())
    assert list(place.store.folder.iterdir()) == []


def test_no_room_is_said_before_anything_is_written(place: Place) -> None:
    store = SuspendedStore(Settings(state_dir=place.settings.state_dir, keep_disk_mib=1 << 40))
    with pytest.raises(NoRoom, match="suspending a needs"):
        store.store("a", place.family())
    assert (store.clusters(), store.halves()) == ([], [])


def test_what_an_interrupted_suspend_left_is_no_cluster(place: Place) -> None:
    half = place.store.folder / ".a.new"
    half.mkdir(parents=True)
    (half / "manifest.json").write_text("{}")
    assert place.store.clusters() == []
    assert place.store.halves() == [half]
    place.store.clear()
    assert place.store.halves() == []
    place.store.store("a", place.family())
    place.loaded("a")


def test_an_image_that_was_built_anew_is_refused(place: Place) -> None:
    place.store.store("a", place.family())
    place.template("5-other")
    with pytest.raises(Foreign, match="suspended on another image base"):
        place.store.check("a")
    with pytest.raises(Foreign):
        place.loaded("a")
    with pytest.raises(Foreign, match="a-0 stands on an image base that is not stored"):
        place.store.store("b", place.family())


def test_a_name_that_is_none_is_refused(place: Place) -> None:
    with pytest.raises(NotFound, match="a is not suspended"):
        place.store.manifest("a")
    for name in ("../a", ".a.new", ""):
        with pytest.raises(BadInput):
            place.store.manifest(name)
        with pytest.raises(BadInput):
            place.store.discard(name)


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def newer(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT + 1}))


def another(path: Path) -> None:
    path.write_text(path.read_text().replace('"reserved_bytes": 5', '"reserved_bytes": 6', 1))


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def layers_open() -> int:
    """How many descriptors of these layers there are."""
    links = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(str(path.readlink()))
    return sum(
        f"copper-layer-{name}" in link for link in links for name in ("1-", "2-", "3-", "4-")
    )


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("layers/2-shared", flip, "its hash differs"),
        ("layers/2-shared", empty, "its hash differs"),
        ("layers/4-b", remove, "cannot be read"),
        ("devices/a-1", flip, "device state"),
        ("devices/a-1", remove, "device state of suspended a-1 cannot be read"),
        ("manifest.json", empty, "cannot be read"),
        ("manifest.json", remove, "is missing"),
        ("manifest.json", another, "its hash differs"),
        ("manifest.json", newer, f"format {FORMAT + 1}, this Copper reads {FORMAT}"),
        ("../../disks/a-1.qcow2", remove, "the disk of suspended a-1 is not whole"),
    ],
)
def test_what_is_not_as_it_was_written_is_refused(
    place: Place, file: str, change: Callable[[Path], None], says: str
) -> None:
    place.store.store("a", place.family())
    change(place.store.folder / "a" / file)
    open_before = layers_open()
    with pytest.raises(Damaged, match=says):
        place.loaded("a")
    assert layers_open() == open_before
    assert place.store.has_damaged() == (file == "manifest.json")
