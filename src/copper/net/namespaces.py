"""Network namespaces with names, as `ip netns` has them: a file below /run/netns that one is mounted on.

`enter` and `made` change the namespace of the thread that calls them, and of no other. The first thread's is the
process's, and that of whatever it starts: it stays where it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path("/run/netns")
_NEWNET = 0x40000000  # CLONE_NEWNET
_BIND, _REC, _SHARED, _DETACH = 0x1000, 0x4000, 1 << 20, 2
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _check_thread() -> None:
    if threading.get_native_id() == os.getpid():
        raise RuntimeError("the first thread of a process does not leave its network")


def enter(name: str) -> None:
    """This thread is in that namespace from now on. Raises FileNotFoundError."""
    _check_thread()
    _go_to(FOLDER / name)


def go_home() -> None:
    """This thread is where the process is: a namespace that a thread is in does not end."""
    _go_to(Path(f"/proc/{os.getpid()}/ns/net"))


def _go_to(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, _NEWNET), str(path))
    finally:
        os.close(fd)


@contextlib.contextmanager
def made(name: str) -> Iterator[None]:
    """Leaves this thread in a new namespace, which gets its name at the end of the block: what has one is complete.

    Raises OSError; what fails leaves no namespace.
    """
    _check_thread()
    _check(_libc.unshare(_NEWNET), name)
    yield
    _share_folder()
    path = FOLDER / name
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        _mount(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net", str(path), _BIND)
    except BaseException:
        path.unlink()
        raise


def descriptor(name: str) -> int:
    """Of a namespace, the caller's to close; without a name, that of the process. Raises FileNotFoundError."""
    path = FOLDER / name if name else Path(f"/proc/{os.getpid()}/ns/net")
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def new_thread_namespace() -> None:
    """This thread is in a namespace without a name: it lives as long as what is open of it."""
    _check_thread()
    _check(_libc.unshare(_NEWNET), "a network namespace")


def remove(name: str) -> None:
    """Takes the name away: the namespace goes with what still uses it. None of this name: nothing to do."""
    path = FOLDER / name
    _libc.umount2(str(path).encode(), _DETACH)
    path.unlink(missing_ok=True)


def names(prefix: str) -> list[str]:
    """Those that begin so."""
    return sorted(path.name for path in FOLDER.glob(f"{prefix}*"))


def _share_folder() -> None:
    """Names are seen in other mount namespaces too, as `ip netns add` does it."""
    FOLDER.mkdir(mode=0o755, exist_ok=True)
    folder = os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # two that mount the folder on itself would double all of its mounts, each time once more
        fcntl.flock(folder, fcntl.LOCK_EX)
        try:
            _mount("", str(FOLDER), _SHARED | _REC)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _mount(str(FOLDER), str(FOLDER), _BIND | _REC)  # it was no mount yet
            _mount("", str(FOLDER), _SHARED | _REC)
    finally:
        os.close(folder)


def _mount(source: str, target: str, flags: int) -> None:
    _check(_libc.mount(source.encode(), target.encode(), b"none", flags, None), target)
