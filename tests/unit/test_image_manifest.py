"""What an image says of itself, and how that is known to be what was written."""

from __future__ import annotations

import hashlib
import json

from copper.image.store import Manifest
from copper.model.machine import Needs, Shape

OLD = {
    "format": 5,
    "id": "1",
    "name": "demo",
    "recipe": "debian-12",
    "recipe_digest": "2",
    "created": 1.5,
    "shape": Shape(memory_mib=64, cpus=1, disk_bytes=1 << 20).model_dump(),
    "needs": Needs(qemu="7.2", machine="q35", accelerator="tcg", processor="max").model_dump(),
    "memory_sha256": "3",
    "memory_bytes": 1,
    "devices_sha256": "4",
    "devices_bytes": 2,
    "disk_sha256": "5",
    "disk_bytes": 3,
}


def test_an_image_of_before_there_was_ssh_is_what_was_written() -> None:
    digest = hashlib.sha256(json.dumps(OLD, sort_keys=True).encode()).hexdigest()
    manifest = Manifest.model_validate({**OLD, "digest": digest})
    assert manifest.own_digest() == digest
    assert not manifest.ssh


def test_whether_an_image_takes_logins_is_covered_by_its_digest() -> None:
    manifest = Manifest.model_validate({**OLD, "ssh": True}).sealed()
    assert manifest.own_digest() == manifest.digest
    other = manifest.model_copy(update={"ssh": False})
    assert other.own_digest() != manifest.digest
