"""Turns what the API says went wrong into the errors of `copper.model.errors`."""

from __future__ import annotations

import errno as errnos
import json

from copper.model.errors import CopperError, NoRoom, NotFound, Refused
from copper.wire.problems import from_problem

_BY_ERRNO: dict[int, type[CopperError]] = {
    errnos.ENOENT: NotFound,
    errnos.EACCES: Refused,
    errnos.EPERM: Refused,
    errnos.EROFS: Refused,
    errnos.EISDIR: Refused,
    errnos.ENOTDIR: Refused,
    errnos.ENOSPC: NoRoom,
}


def error_of(status: int, body: bytes) -> CopperError:
    """The error that an answer with this HTTP status carries; any body gives one."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    said = problem if isinstance(problem, dict) else {}
    detail = said.get("detail") or f"Copper answered with the HTTP status {status}"
    return from_problem({"status": status, **said, "detail": detail})


def error_of_errno(errno: int, message: str) -> CopperError:
    """The error for an errno that the guest reported."""
    return _BY_ERRNO.get(errno, CopperError)(message)
