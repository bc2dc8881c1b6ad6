"""Writes docs/reference/errors.md from the errors themselves: `python -m copper.cli.reference_errors`."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from copper.model import errors

HEAD = """\
# Errors

Made by `python -m copper.cli.reference_errors > docs/reference/errors.md`.

Whatever goes wrong has one of these codes. A command prints one line, `gc-vm: what is wrong (what to do)`, and ends
with the exit status. The [API](api.md) answers with the HTTP status and a body of `application/problem+json`, whose
members `code`, `detail` and `advice` are the code and the two parts of that line. The command
[gc](gc.md#exit-status) in a guest prints the line too, and ends with the errno; a program's call fails with it.

Codes are stable. Branch on them, or on the numbers; the words may change. A code that a program does not know means
what its number means.
"""
TAIL = """\
`failed` is all that has no code of its own: QEMU, a tool, the guest's agent or a connection failed, or Copper does
not run.

## In words
[Find out what is wrong](../how-to/trouble.md) has the messages that one meets, each with its cause and what mends it.
`COPPER_DEBUG=1` before a command shows a traceback with its message; its exit status is 1 then.
"""
# `├── BadInput           2  what it means`: a line of the tree at the top of errors.py
_BRANCH = re.compile(r"^[ │├└─]*(?P<name>\w+) +(?P<status>\d)  (?P<when>.+)$", re.MULTILINE)


def text() -> str:
    """The whole page."""
    rows = [
        f"| `{kind.code}` | {kind.exit_status} | {kind.http_status}"
        f" | {kind.errno} {errno.errorcode[kind.errno]} | {when} |"
        for kind, when in tree()
    ]
    head = [
        "| code | exit status | HTTP status | errno | when |",
        "| --- | --- | --- | --- | --- |",
    ]
    return "\n".join([HEAD, *head, *rows, "", TAIL])


def tree() -> Iterator[tuple[type[errors.CopperError], str]]:
    """Each kind of error and when it comes, in the order of the tree that errors.py draws.

    Raises ValueError when the drawing is not what the classes are.
    """
    drawn = list(_BRANCH.finditer(errors.__doc__ or ""))
    # others may have loaded kinds of their own, which users do not meet
    every = errors.all_errors().values()
    kinds = {kind.__name__: kind for kind in every if kind.__module__ == errors.__name__}
    if {branch["name"] for branch in drawn} != set(kinds):
        raise ValueError(f"errors.py draws {[branch['name'] for branch in drawn]}, has {[*kinds]}")
    for branch in drawn:
        kind = kinds[branch["name"]]
        if kind.exit_status != int(branch["status"]):
            raise ValueError(f"errors.py draws {branch['status']} for {kind.__name__}")
        yield kind, branch["when"]


if __name__ == "__main__":
    print(text(), end="")
