"""Named steps of what Copper does, where a test can stop it as a crash would.

`step` is an instant of a trace; besides it does nothing unless a test has put a hook here. Each
name is `VERB.WHAT-WAS-JUST-DONE`; `host.…` are the host agent's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from copper.wire import trace

STEPS = (
    "create.checked",
    "create.written",
    "create.warmed",
    "boot.planned",
    "boot.thawed",
    "boot.written",
    "ticket.asked",
    "ticket.placed",
    "ticket.written",
    "ticket.prepared",
    "ticket.expired",
    "ticket.released",
    "clone.checked",
    "clone.reserved",
    "clone.planned",
    "clone.frozen",
    "clone.prepared",
    "clone.ordered",
    "clone.thawed",
    "clone.written",
    "clone.released",
    "clone.undone",
    "kill.forks-ended",
    "kill.ended",
    "kill.written",
    "delete.written",
    "network.written",
    "network.deleted",
    "egress.written",
    "egress.told",
    "forward.written",
    "forward.told",
    "forward.deleted",
    "pause.ordered",
    "pause.written",
    "unpause.ordered",
    "unpause.written",
    "suspend.planned",
    "suspend.stored",
    "suspend.written",
    "resume.planned",
    "resume.thawed",
    "resume.written",
    "host.thaw-began",
    "host.thawed",
    "host.recorded",
    "host.running",
    "host.frozen",
    "host.freeze-recorded",
    "host.released",
    "host.ending",
    "host.ended",
    "host.suspend-frozen",
    "host.suspend-stored",
    "host.suspend-ended",
    "host.resume-loaded",
    "host.resumed",
)

hook: Callable[[str], Awaitable[None]] | None = None


async def step(name: str) -> None:
    """Says that a step is done."""
    trace.mark(name)
    if hook is not None:
        await hook(name)
