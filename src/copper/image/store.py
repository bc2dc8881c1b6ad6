"""Images on disk: what survives a reboot, and how it is known to be what was written.

`images/NAME/` holds `manifest.json`, `memory` (the lowest layer), `devices` and `disk.qcow2`. It is written beside its
place and renamed into it, so an image is there whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field, ValidationError

from copper.image.layers import load_layer, write_layer
from copper.image.machine import FORMAT, Image
from copper.model.api import ImageInfo
from copper.model.errors import Conflict, CopperError, Damaged, Foreign, NoRoom, NotFound
from copper.model.machine import Needs, Record, Shape
from copper.model.names import check_name
from copper.model.settings import Settings


class Manifest(Record):
    """What an image is, needs and consists of. `digest` covers all other fields."""

    format: int
    id: str
    name: str
    recipe: str
    recipe_digest: str
    created: float
    shape: Shape
    needs: Needs
    memory_sha256: str
    memory_bytes: int
    devices_sha256: str
    devices_bytes: int
    disk_sha256: str
    disk_bytes: int = Field(description="bytes of the file, not of the disk that a guest sees")
    ssh: bool = Field(
        default=False, description="whether its VMs take SSH logins of their virtual cluster"
    )
    digest: str = ""

    def sealed(self) -> Manifest:
        return self.model_copy(update={"digest": self.own_digest()})

    def own_digest(self) -> str:
        # an image of before there was ssh is what it was
        left_out = {"digest"} if self.ssh else {"digest", "ssh"}
        text = json.dumps(self.model_dump(exclude=left_out), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def sha256_of(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


class ImageStore:
    """The stored images of one state directory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.folder = settings.images_dir

    def names(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return sorted(
            entry.name for entry in self.folder.iterdir() if not entry.name.startswith(".")
        )

    def manifest(self, name: str) -> Manifest:
        """Reads a manifest. Raises NotFound, or Damaged or Foreign with what is wrong."""
        check_name(name, "image")
        path = self.folder / name / "manifest.json"
        try:
            written = json.loads(path.read_text())
        except FileNotFoundError:
            known = ", ".join(self.names()) or "there are none; copper image build makes one"
            raise NotFound(f"there is no image {name!r}", advice=f"images: {known}") from None
        except (OSError, ValueError) as error:
            raise Damaged(f"the manifest of image {name} cannot be read: {error}") from None
        found = written.get("format") if isinstance(written, dict) else None
        if isinstance(found, int) and found != FORMAT:
            raise Foreign(
                f"image {name} has format {found}, this Copper reads {FORMAT}",
                advice="use the Copper that made it, or build it again: copper image build --replace",
            )
        try:
            manifest = Manifest.model_validate(written)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise Damaged(
                f"the manifest of image {name} is not valid: {where}: {first['msg']}"
            ) from None
        if manifest.digest != manifest.own_digest():
            raise Damaged(f"the manifest of image {name} is not what was written: its hash differs")
        return manifest

    def disk(self, name: str) -> Path:
        return self.folder / name / "disk.qcow2"

    def info(self, name: str) -> ImageInfo:
        """What is listed of an image, without its users; a damaged one is listed as such."""
        try:
            manifest = self.manifest(name)
        except CopperError:
            return ImageInfo(
                name=name,
                recipe="(damaged)",
                created=0,
                memory_mib=0,
                cpus=0,
                disk_bytes=0,
                stored_bytes=self.stored_bytes(name),
                accelerator="",
                users=[],
            )
        return ImageInfo(
            name=name,
            recipe=manifest.recipe,
            created=manifest.created,
            memory_mib=manifest.shape.memory_mib,
            cpus=manifest.shape.cpus,
            disk_bytes=manifest.shape.disk_bytes,
            stored_bytes=self.stored_bytes(name),
            accelerator=manifest.needs.accelerator,
            users=[],
            ssh=manifest.ssh,
        )

    def stored_bytes(self, name: str) -> int:
        files = (self.folder / name).iterdir()
        return sum(path.stat().st_blocks * 512 for path in files)

    def load(self, name: str) -> Image:
        """Brings a stored image into memory, every part checked. Raises NotFound, Damaged or Foreign.

        Takes a second or so; it is done once per host agent, not per VM.
        """
        manifest = self.manifest(name)
        folder = self.folder / name
        try:
            state = (folder / "devices").read_bytes()
            disk_size = self.disk(name).stat().st_size
        except OSError as error:
            raise Damaged(
                f"image {name}: {error.filename} cannot be read: {error.strerror}"
            ) from None
        if hashlib.sha256(state).hexdigest() != manifest.devices_sha256:
            raise Damaged(
                f"the device state of image {name} is not what was written: its hash differs"
            )
        if disk_size != manifest.disk_bytes:
            raise Damaged(
                f"the disk of image {name} has {disk_size} bytes, {manifest.disk_bytes} were written"
            )
        self._check_disk(name, manifest)
        layer = load_layer(manifest.id, folder / "memory", manifest.memory_sha256)
        if layer.index.ram_bytes != manifest.shape.memory_bytes:
            layer.close()
            raise Damaged(f"the memory of image {name} is of another size than its shape")
        return Image(
            id=manifest.id,
            shape=manifest.shape,
            needs=manifest.needs,
            layers=[layer],
            state=state,
            state_sha256=manifest.devices_sha256,
            disks=(self.disk(name),),
        )

    def _check_disk(self, name: str, manifest: Manifest) -> None:
        """Hashes the disk, unless this very file was found right since the host booted."""
        stat = self.disk(name).stat()
        seen = f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {manifest.disk_sha256}"
        mark = self._settings.run_dir / "checked" / name
        if mark.exists() and mark.read_text() == seen:
            return
        if sha256_of(self.disk(name)) != manifest.disk_sha256:
            raise Damaged(f"the disk of image {name} is not what was written: its hash differs")
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(seen)

    @contextmanager
    def claim(self, name: str) -> Iterator[Path]:
        """A folder to write image `name` into: it becomes the image at the end, or nothing is left.

        Raises Conflict when another process builds the same image.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / f".{name}.new"
        with (self.folder / f".{name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(f"image {name} is being built by another process") from None
            shutil.rmtree(fresh, ignore_errors=True)  # of a build that was killed
            fresh.mkdir()
            try:
                yield fresh
                if (self.folder / name).exists():
                    self.delete(name)
                fresh.rename(self.folder / name)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
                Path(lock.name).unlink(missing_ok=True)

    def write(
        self,
        folder: Path,
        image: Image,
        name: str,
        recipe: str,
        recipe_digest: str,
        *,
        ssh: bool = False,
    ) -> Manifest:
        """Writes a frozen VM's memory and devices beside its disk in a claimed folder. Raises NoRoom."""
        (layer,) = image.layers
        disk = folder / "disk.qcow2"
        try:
            (folder / "devices").write_bytes(image.state)
            memory_sha256 = write_layer(layer.fd, folder / "memory")
            manifest = Manifest(
                format=FORMAT,
                id=image.id,
                name=name,
                recipe=recipe,
                recipe_digest=recipe_digest,
                created=time.time(),
                shape=image.shape,
                needs=image.needs,
                memory_sha256=memory_sha256,
                memory_bytes=(folder / "memory").stat().st_size,
                devices_sha256=image.state_sha256,
                devices_bytes=len(image.state),
                disk_sha256=sha256_of(disk),
                disk_bytes=disk.stat().st_size,
                ssh=ssh,
            ).sealed()
            (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1) + "\n")
            for path in folder.iterdir():
                path.chmod(0o444)
            os.sync()
        except OSError as error:
            raise NoRoom(f"image {name} cannot be written: {error.strerror}") from error
        return manifest

    def delete(self, name: str) -> None:
        """Removes a stored image. Whoever calls this has made sure that nobody stands on it."""
        self.manifest_exists(name)
        gone = self.folder / f".{name}.gone"
        (self.folder / name).rename(gone)
        shutil.rmtree(gone)

    def manifest_exists(self, name: str) -> None:
        """Raises NotFound; a damaged image is there, and can be deleted."""
        check_name(name, "image")
        if not (self.folder / name).is_dir():
            self.manifest(name)
