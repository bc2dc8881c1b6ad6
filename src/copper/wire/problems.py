"""Errors on the wire: problem+json, and back into the class that it was."""

from __future__ import annotations

from typing import Any

from copper.model.errors import CopperError, all_errors

MEDIA_TYPE = "application/problem+json"


def to_problem(error: CopperError) -> dict[str, Any]:
    """An error as RFC 9457 has it, with Copper's stable code."""
    return {
        "type": "about:blank",
        "title": error.code.replace("-", " "),
        "status": error.http_status,
        "detail": error.message,
        "code": error.code,
        "advice": error.advice,
    }


def from_problem(body: object) -> CopperError:
    """The error that a problem says, or a plain one when it says nothing known."""
    if not isinstance(body, dict):
        return CopperError(f"unexpected answer: {body!r:.100}")
    kinds = all_errors()
    code, status = str(body.get("code")), body.get("status")
    # a code of a newer Copper: the HTTP status still says what kind it is
    by_status = (kind for kind in kinds.values() if kind.http_status == status)
    kind = kinds.get(code) or next(by_status, CopperError)
    message = str(body.get("detail") or body.get("title") or "Copper gave no reason")
    return kind(message, advice=str(body.get("advice") or ""))
