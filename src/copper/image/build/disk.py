"""A root directory as a disk: ext4 without mounting anything, then qcow2."""

from __future__ import annotations

import uuid
from pathlib import Path

from copper.image.build.run import run

# Everything is written at once: a guest that finds work left for later dirties pages while idle.
_EAGER = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"


def make(root: Path, disk: Path, *, mib: int, digest: str, epoch: int) -> None:
    """Write the qcow2 `disk` of `mib` MiB with an ext4 file system that holds the directory.

    The file system has no partition table, no reserved blocks and an identity that follows from
    `digest`; `epoch` is its time, in seconds. Both files it makes are sparse.
    """
    identity = uuid.UUID(digest[:32])
    raw = disk.with_suffix(".raw")
    with raw.open("xb") as file:
        file.truncate(mib << 20)
    # small disks would get blocks of 1 KiB, four to a page of memory
    layout = ["-t", "ext4", "-T", "default", "-b", "4096", "-m", "0", "-L", "root"]
    options = f"{_EAGER},hash_seed={identity},root_owner=0:0"
    run(
        ["mke2fs", "-q", *layout, "-U", str(identity), "-E", options, "-d", root, raw],
        env={"E2FSPROGS_FAKE_TIME": str(epoch)},
    )
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk])
    raw.unlink()
