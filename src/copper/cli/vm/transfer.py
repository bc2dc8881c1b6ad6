"""What `gc-vm push`, `pull` and `kill` share: one after the other, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from copper.cli.output import warn
from copper.model.errors import CopperError, PartlyDone

Thing = TypeVar("Thing")


def each(
    things: Iterable[Thing], serve: Callable[[Thing], object], done_to: str = "files were copied"
) -> None:
    """Serves every one, also after one that failed.

    Raises PartlyDone when some failed, and the last error when all did.
    """
    failed: list[CopperError] = []
    done = 0
    for thing in things:
        try:
            serve(thing)
            done += 1
        except CopperError as error:
            if failed:
                warn("gc-vm", str(failed[-1]))
            failed.append(error)
    if failed and done:
        warn("gc-vm", str(failed[-1]))
        raise PartlyDone(f"{done} of {done + len(failed)} {done_to}")
    if failed:
        raise failed[-1]
