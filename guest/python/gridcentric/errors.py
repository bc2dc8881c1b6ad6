"""What calls raise: all are OSErrors with an errno, and what Python has for it.

Error
├── NotAllowed     EPERM 1, a PermissionError
├── NotFound       ENOENT 2, a FileNotFoundError: there is no such ticket or VM
├── HostFailed     EIO 5: the host side failed; the message says how
├── NoPermission   EACCES 13, a PermissionError: on the agent's socket
├── NoRoom         EBUSY 16
├── BadArgument    EINVAL 22, a ValueError and a TypeError: names the argument and what was expected
├── TimedOut       ETIMEDOUT 110, a TimeoutError
└── NoAgent        ECONNREFUSED 111, a ConnectionRefusedError: none runs here, or it went away
"""

import errno as errnos
import os
from typing import Dict, Type


class Error(OSError):
    """A call failed. `errno` and `strerror` say why."""


class NotAllowed(Error, PermissionError):
    """EPERM: this VM may not do that."""


class NotFound(Error, FileNotFoundError):
    """ENOENT: there is no such ticket or VM."""


class HostFailed(Error):
    """EIO: the host side failed; the message says how."""


class NoPermission(Error, PermissionError):
    """EACCES: this user may not use the agent's socket."""


class NoRoom(Error):
    """EBUSY: there are no resources for it."""


class BadArgument(Error, ValueError, TypeError):
    """EINVAL: an argument is not what was expected; the message names it."""


class TimedOut(Error, TimeoutError):
    """ETIMEDOUT: it took too long."""


class NoAgent(Error, ConnectionRefusedError):
    """ECONNREFUSED: no agent runs here, or it went away before it answered."""


_KINDS: Dict[int, Type[Error]] = {
    errnos.EPERM: NotAllowed,
    errnos.ENOENT: NotFound,
    errnos.EIO: HostFailed,
    errnos.EACCES: NoPermission,
    errnos.EBUSY: NoRoom,
    errnos.EINVAL: BadArgument,
    errnos.ETIMEDOUT: TimedOut,
    errnos.ECONNREFUSED: NoAgent,
}


def of(number: int, message: str = "") -> Error:
    """The error of an errno; its own words where there is no message."""
    return _KINDS.get(number, Error)(number, message or os.strerror(number))
