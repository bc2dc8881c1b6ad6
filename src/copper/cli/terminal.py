"""The user's terminal while it belongs to a VM: raw, measured, and given back as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def raw_terminal(fd: int = 0) -> Iterator[bool]:
    """Every key goes through as it is until the end; False when `fd` is no terminal."""
    import termios
    import tty

    if not os.isatty(fd):
        yield False
        return
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        yield True
    finally:
        # what was typed and not read is for the shell
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def terminal_size() -> tuple[int, int]:
    """Rows and columns of the terminal at hand; 24 and 80 without one."""
    for fd in (1, 0, 2):
        try:
            size = os.get_terminal_size(fd)
        except OSError:
            continue
        if size.lines and size.columns:
            return size.lines, size.columns
    return 24, 80
