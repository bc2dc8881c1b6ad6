"""What a command says: results to standard output, everything else to standard error."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from copper.model.errors import CopperError


class ReaderGone(Exception):
    """Whoever read our standard output has gone away, as `head` does."""


def say(text: str) -> None:
    """One line of the result."""
    try:
        print(text)
    except OSError as error:
        raise cannot_write(error) from error


def say_done(answer: dict[str, Any] | list[str] | None) -> None:
    """What work on VMs was answered with: the names of the VMs, or the operation's id."""
    if isinstance(answer, dict):
        say(answer["id"])
    for name in answer if isinstance(answer, list) else []:
        say(name)


def flush() -> None:
    """All that was said is out, or this raises why not."""
    try:
        sys.stdout.flush()
    except OSError as error:
        raise cannot_write(error) from error


def cannot_write(error: OSError) -> Exception:
    """What to raise when standard output takes no more."""
    drop_output()
    if isinstance(error, BrokenPipeError):
        return ReaderGone()
    return CopperError(f"standard output cannot be written: {error.strerror}")


def drop_output() -> None:
    """What is still to be written goes nowhere: Python would try once more at its end, and complain."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)


def note(text: str) -> None:
    """One line beside the result, such as progress."""
    print(text, file=sys.stderr, flush=True)


def warn(name: str, message: str) -> None:
    """An error: exactly one line, whatever the message has in it."""
    line = "".join(c if c.isprintable() else " " for c in f"{name}: {message}")
    print(" ".join(line.split()), file=sys.stderr, flush=True)


def put(data: bytes) -> None:
    """Bytes as they are to standard output."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(1, view) :]
    except OSError as error:
        raise cannot_write(error) from error
