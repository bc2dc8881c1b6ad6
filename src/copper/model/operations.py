"""Long work: what is being done, how far it is, how it ended; and what changed, in order."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from copper.model.api import Problem
from copper.model.machine import Record

OperationKind = Literal[
    "boot", "clone", "delete", "kill", "limit", "pause", "resume", "suspend", "unpause"
]
OperationState = Literal["running", "done", "failed", "cancelled"]


class Operation(Record):
    """Long work on one virtual cluster. `result` is what the request would have been answered with."""

    id: str
    kind: OperationKind
    cluster: str
    owner: str
    state: OperationState
    done: int = Field(default=0, description="parts that are done, of `parts`")
    parts: int = 0
    created: float = Field(description="seconds since 1970")
    ended: float | None = None
    result: Any = None
    problem: Problem | None = None


class Change(Record):
    """One thing changed. `id` orders all changes, and is where a stream goes on from."""

    id: str = Field(description="REVISION.N, the N-th change of a revision of the state")
    kind: Literal["cluster", "vm", "ticket", "operation", "user", "host", "image"]
    name: str
    change: Literal["put", "deleted"]
    body: dict[str, Any] | None = Field(default=None, description="what it is now")
