"""Files to and from a VM: whole or not at all, with their mode and time."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from copper.client.problems import error_of_errno
from copper.client.streams import CHUNK, Stream, check_exit
from copper.model.errors import BadInput, CopperError, NotFound, Refused


def check_file(path: Path) -> os.stat_result:
    """What this machine knows of a file to push. Raises for what cannot be pushed."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise NotFound(f"no file {path}") from None
    except (OSError, ValueError) as error:
        raise _local(error, path) from None
    if stat.S_ISDIR(status.st_mode):
        raise BadInput(
            f"{path} is a folder, and only files are pushed",
            advice=f"tar c {path} | gc-vm exec VM -- tar x",
        )
    if not os.access(path, os.R_OK):
        raise Refused(f"no permission to read {path}")
    return status


def push_file(stream: Stream, path: Path, destination: str) -> None:
    """Sends a file: to the path `destination` in the VM, or into it when that is a folder."""
    status = check_file(path)
    plain = stat.S_ISREG(status.st_mode)
    head = {
        "path": destination,
        "name": path.name,
        "mode": stat.S_IMODE(status.st_mode) if plain else 0o644,
        "mtime_ns": status.st_mtime_ns if plain else time.time_ns(),
    }
    try:
        with path.open("rb", buffering=0) as file:
            going = stream.tell(head)
            while going and (data := file.read(CHUNK)):
                going = stream.send(data)
                while not stream.has_room:
                    stream.turn()
    except OSError as error:
        raise _local(error, path) from None
    if going:
        stream.tell({"type": "eof"})
    for message in stream.messages():
        if isinstance(message, dict) and message.get("type") == "exit":
            check_exit(message, f"writing {destination}")


def pull_file(stream: Stream, source: str, target: Path) -> None:
    """Fetches the VM's file `source` as the local file `target`, which appears once it is whole.

    What is there already and no plain file, such as a pipe, is written into as it is.
    """
    if target.exists() and not target.is_file():
        try:
            with target.open("wb", buffering=0) as file:
                _receive(stream, source, file.fileno())
        except OSError as error:
            raise _local(error, target) from None
        return
    try:
        fd, part = tempfile.mkstemp(prefix=f".{target.name[:200]}.", dir=target.parent)
    except OSError as error:
        raise _local(error, target) from None
    try:
        started = _receive(stream, source, fd)
        # never set-user-id: the file may be anybody's in the guest, and would become ours here
        os.fchmod(fd, int(started.get("mode", 0o644)) & 0o777)
        mtime_ns = int(started.get("mtime_ns", time.time_ns()))
        os.utime(fd, ns=(mtime_ns, mtime_ns))
        Path(part).rename(target)
    except OSError as error:
        raise _local(error, target) from None
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):
            Path(part).unlink()


def _receive(stream: Stream, source: str, fd: int) -> dict[str, Any]:
    """Writes what comes to `fd`; gives the message that began it."""
    stream.tell({"path": source})
    started: dict[str, Any] = {}
    for message in stream.messages():
        if isinstance(message, bytes):
            write_all(fd, message)
        elif message.get("type") == "started":
            started = message
        elif message.get("type") == "exit":
            check_exit(message, f"reading {source}")
    return started


def write_all(fd: int, data: bytes) -> None:
    """Writes all of it, however little the system takes at once."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _local(error: Exception, path: Path) -> CopperError:
    """The error for what went wrong on this machine, which names the file."""
    if isinstance(error, OSError) and error.errno:
        return error_of_errno(error.errno, f"{path}: {error.strerror}")
    return BadInput(f"{str(path)[:60]!r}: {error}")
