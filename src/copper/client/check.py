"""What stands in a path or a body, checked before anything is sent. All raise BadInput."""

from __future__ import annotations

from copper.model.errors import BadInput
from copper.model.names import check_name, parse_vm_name


def a_cluster(name: str) -> str:
    return check_name(name, "virtual cluster")


def an_image(name: str) -> str:
    return check_name(name, "image")


def a_user(name: str) -> str:
    return check_name(name, "user")


def a_vm(name: str) -> str:
    parse_vm_name(name)
    return name


def a_part(text: str) -> str:
    """Any other name, as a part of a path."""
    from urllib.parse import quote

    if not text or len(text) > 253 or text in (".", ".."):
        raise BadInput(f"{text[:60]!r} is not a name", advice="expected 1 to 253 characters")
    return quote(text, safe="")
