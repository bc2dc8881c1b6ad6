"""Where pages of a process are, and how large: in swap, on a disk or compressed (process_madvise(2), Linux 5.10)."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
from pathlib import Path

_SYSCALL, _PAGEOUT = 440, 21  # the same on all machines; asm-generic/mman-common.h
_NOW_AND_LATER, _ONCE_TOUCHED = 1 | 2, 4  # MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT; asm-generic/mman.h
_MOST = 1 << 30  # bytes in one call: the kernel takes less than 2 GiB
_PASSED_OVER = (errno.EINVAL, errno.ENOMEM)  # a mapping that cannot be paged out, or is no more
_ARENA_MAX, _MMAP_THRESHOLD = -8, -3  # M_…; malloc.h
_ARENAS, _LARGE_BYTES = 2, 128 << 10
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_libc = ctypes.CDLL(None, use_errno=True)
_resident = False  # whether this process stays in memory


def stay_resident() -> None:
    """Has all that this process ever touched stay in memory, its programs too; its children's does not.

    A host that runs out of memory takes first what it can read again from a disk: then whoever is to mend that waits
    for a disk at every step. Raises OSError: no right to. Nothing of it counts against a limit then.
    """
    global _resident
    if os.geteuid() and resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    if _libc.mlockall(_NOW_AND_LATER | _ONCE_TOUCHED):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    _resident = True


def keep_little() -> None:
    """Has what is large be memory of its own from now on, which goes back to the host when it is freed.

    Otherwise the C library takes it, once one piece was freed, from where many small things lie, of each thread apart:
    the states of a virtual cluster's VMs, 160 kB each, and the buffers that files are copied by leave holes there.
    To be called before there are threads. Nothing where the library has no such call.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_ARENA_MAX, _ARENAS)
        _libc.mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back() -> None:
    """Gives the host what this process has freed: the C library keeps what lies between what is in use.

    Takes 4 ms, 30 where there is much; whoever allocates meanwhile waits. Nothing where the library has no such call.
    """
    if not hasattr(_libc, "malloc_trim"):
        return
    if _resident:
        _libc.munlockall()  # what is locked is not given back
    _libc.malloc_trim(0)
    if _resident:
        stay_resident()


class _Range(ctypes.Structure):
    _fields_ = (("begin", ctypes.c_void_p), ("length", ctypes.c_size_t))


def page_out(pid: int) -> int:
    """Has the kernel store in swap what a process may write, but for pages that others map too; they come back by use.

    Returns the bytes that it looked at. Raises OSError: no such process, no right to, or a kernel that cannot.
    """
    looked = 0
    pidfd = os.pidfd_open(pid)
    try:
        for begin, end in _writable(pid):
            for at in range(begin, end, _MOST):
                looked += _advise(pidfd, at, min(end - at, _MOST))
    finally:
        os.close(pidfd)
    return looked


def _writable(pid: int) -> list[tuple[int, int]]:
    text = Path(f"/proc/{pid}/maps").read_text()
    found = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) .w.p ", text, re.M)
    return [(int(begin, 16), int(end, 16)) for begin, end in found]


def _advise(pidfd: int, begin: int, length: int) -> int:
    one = _Range(begin, length)
    done = int(_libc.syscall(_SYSCALL, pidfd, ctypes.byref(one), ctypes.c_size_t(1), _PAGEOUT, 0))
    if done >= 0:
        return done
    if (code := ctypes.get_errno()) in _PASSED_OVER:
        return 0
    raise OSError(code, os.strerror(code))


def gives_huge_pages(enabled: Path = HUGE_PAGES) -> bool:
    """Whether this host has huge pages for programs that ask for them."""
    try:
        return "[never]" not in enabled.read_text()
    except OSError:  # a kernel without them
        return False
