"""Every error that a user can meet, in one tree.

    CopperError            1  failed
    ├── BadInput           2  an argument is wrong; the message names it and what was expected
    ├── NotFound           3  no such VM, virtual cluster, image, ticket
    ├── Refused            4  not allowed, or not sensible
    │   ├── Unauthorized   4  no token, or one that is not valid any more
    │   ├── NoRoom         4  memory, disk or processors do not suffice
    │   └── Damaged        4  an image or record is not what was written
    │       └── Foreign    4  an image needs another QEMU, machine, processor or format
    ├── Conflict           5  contradicts the current state
    │   └── TooOld         5  the history of changes does not go on from there: list again
    ├── TimedOut           6  a deadline passed
    └── PartlyDone         7  some of the objects were served, some not

The number is a command's exit status. Every class also has the HTTP status and the errno that a
guest's program sees (`../docs/reference/errors.md` is made from this file).
"""

from __future__ import annotations

import errno as errnos
from typing import ClassVar


class CopperError(Exception):
    """Something that Copper could not do, in one line for people and one stable code for programs.

    `message` says what is wrong; `advice`, where there is some, what would be right.
    """

    code: ClassVar[str] = "failed"
    exit_status: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    errno: ClassVar[int] = errnos.EIO

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.message} ({self.advice})" if self.advice else self.message


class BadInput(CopperError):
    code = "bad-input"
    exit_status = 2
    http_status = 422
    errno = errnos.EINVAL


class NotFound(CopperError):
    code = "not-found"
    exit_status = 3
    http_status = 404
    errno = errnos.ENOENT


class Refused(CopperError):
    code = "refused"
    exit_status = 4
    http_status = 403
    errno = errnos.EPERM


class Unauthorized(Refused):
    code = "unauthorized"
    http_status = 401
    errno = errnos.EACCES


class NoRoom(Refused):
    code = "no-room"
    http_status = 507
    errno = errnos.EBUSY


class Damaged(Refused):
    code = "damaged"
    http_status = 422
    errno = errnos.EIO


class Foreign(Damaged):
    code = "foreign"


class Conflict(CopperError):
    code = "conflict"
    exit_status = 5
    http_status = 409
    errno = errnos.EBUSY


class TooOld(Conflict):
    code = "too-old"
    http_status = 410
    errno = errnos.ESTALE


class TimedOut(CopperError):
    code = "timed-out"
    exit_status = 6
    http_status = 504
    errno = errnos.ETIMEDOUT


class PartlyDone(CopperError):
    code = "partly-done"
    exit_status = 7
    http_status = 207


def all_errors() -> dict[str, type[CopperError]]:
    """Every class of the tree by its code."""
    found: dict[str, type[CopperError]] = {}
    todo: list[type[CopperError]] = [CopperError]
    while todo:
        kind = todo.pop()
        if "code" in vars(kind):  # a kind of its own, not a special case of another
            found[kind.code] = kind
        todo += kind.__subclasses__()
    return found
