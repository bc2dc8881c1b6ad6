"""What must not be cut off in the middle runs to its end, whoever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def whole(work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives, when it is done. A cancel that came meanwhile is raised then, never before.

    Raises what `work` raises.
    """
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    failure = None if task.cancelled() else task.exception()  # looked at, whatever is raised
    if cancelled is not None:
        raise cancelled from failure
    return await task


async def undo(work: Coroutine[Any, Any, None]) -> None:
    """Takes something back, to the end: half of it would be a leftover that nobody looks after."""
    await whole(work)
