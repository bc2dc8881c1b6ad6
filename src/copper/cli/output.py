"""What a command says: results to standard output, everything else to standard error."""

from __future__ import annotations

import os
import sys


class ReaderGone(Exception):
    """Whoever read our standard output has gone away, as `head` does."""


def say(text: str) -> None:
    """One line of the result."""
    try:
        print(text)
    except BrokenPipeError:
        raise ReaderGone from None


def note(text: str) -> None:
    """One line beside the result, such as progress."""
    print(text, file=sys.stderr, flush=True)


def warn(name: str, message: str) -> None:
    """An error: exactly one line, whatever the message has in it."""
    line = "".join(c if c.isprintable() else " " for c in f"{name}: {message}")
    print(" ".join(line.split()), file=sys.stderr, flush=True)


def put(data: bytes, fd: int = 1) -> None:
    """Bytes as they are to standard output or error."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except BrokenPipeError:
        raise ReaderGone from None
