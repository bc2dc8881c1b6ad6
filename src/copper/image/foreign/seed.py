"""The seed that a foreign guest's cloud-init finds at its first boot: NoCloud, a disk labelled cidata.

Its user-data is a shell script (images/foreign/first-boot) that carries all files in itself, so what takes
cloud-init's place in small distributions can run it too.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

from copper.image.build.recipes import recipes_dir
from copper.image.build.rootfs import AGENT, AGENT_NAMES, HOOK_FOLDERS

PLACE = "#PAYLOAD\n"  # in the script: where the token and the files go
UNIT = "usr/lib/systemd/system/gridcentric-agent.service"
# what our own Debian has too, by its path there
SHARED = {
    "etc/systemd/system/gridcentric-agent.service": UNIT,
    "etc/systemd/system.conf.d/quiet.conf": "etc/systemd/system.conf.d/quiet.conf",
    "etc/sysctl.d/60-frozen.conf": "etc/sysctl.d/60-frozen.conf",
}


def _script() -> Path:
    return recipes_dir() / "foreign" / "first-boot"


def _files(agent: Path) -> dict[str, Path]:
    """What the guest gets, by its path there."""
    own = recipes_dir() / "foreign" / "files"
    found = {
        path.relative_to(own).as_posix(): path for path in sorted(own.rglob("*")) if path.is_file()
    }
    ours = recipes_dir() / "debian-12" / "files"
    return {**found, **{name: ours / path for name, path in SHARED.items()}, AGENT: agent}


def payload(agent: Path) -> bytes:
    """A packed tar file of all that a guest gets: the same files, the same bytes."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as squeezed,
        tarfile.open(fileobj=squeezed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, path in sorted(_files(agent).items()):
            entry = tarfile.TarInfo(name)
            data = path.read_bytes()
            entry.size = len(data)
            entry.mode = 0o755 if name == AGENT or os.access(path, os.X_OK) else 0o644
            tar.addfile(entry, io.BytesIO(data))
        for name in AGENT_NAMES:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, f"/{AGENT}", 0o777
            tar.addfile(entry)
        for name in HOOK_FOLDERS:
            entry = tarfile.TarInfo(f"etc/gridcentric/{name}")
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
    return packed.getvalue()


def digest(agent: Path) -> str:
    """Of all that a seed puts into a guest: 64 hexadecimal digits."""
    return hashlib.sha256(_script().read_bytes() + payload(agent)).hexdigest()


def user_data(agent: Path, token: str) -> str:
    """The script, which reports on the serial line in lines that begin with `copper-import TOKEN`."""
    text = _script().read_text()
    encoded = base64.encodebytes(payload(agent)).decode()
    carried = f"TOKEN={token}\npayload() {{\n    base64 -d <<'END'\n{encoded}END\n}}\n"
    assert text.count(PLACE) == 1
    return text.replace(PLACE, carried)


def write(folder: Path, agent: Path, token: str, host_name: str) -> None:
    """Writes the files of a seed into an empty folder."""
    meta = f"instance-id: copper-{token}\nlocal-hostname: {host_name}\n"
    (folder / "meta-data").write_text(meta)
    (folder / "user-data").write_text(user_data(agent, token))
    (folder / "network-config").write_text("config: disabled\n")
