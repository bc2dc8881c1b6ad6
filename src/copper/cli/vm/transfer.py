"""What `gc-vm push` and `gc-vm pull` share: one file after the other, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from copper.cli.output import warn
from copper.model.errors import CopperError, PartlyDone

File = TypeVar("File")


def each(files: Iterable[File], transfer: Callable[[File], None]) -> None:
    """Transfers every file, also after one that failed.

    Raises PartlyDone when some failed, and the last error when all did.
    """
    failed: list[CopperError] = []
    done = 0
    for file in files:
        try:
            transfer(file)
            done += 1
        except CopperError as error:
            if failed:
                warn("gc-vm", str(failed[-1]))
            failed.append(error)
    if failed and done:
        warn("gc-vm", str(failed[-1]))
        raise PartlyDone(f"{done} of {done + len(failed)} files were copied")
    if failed:
        raise failed[-1]
