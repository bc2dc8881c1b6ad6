"""What any store of Copper's state must do: get, list, and write all or nothing after comparing.

Values are JSON objects under string keys. Every write gets the next revision of the whole store; a record's own is the
revision that wrote it, and 0 for a key that is not there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from copper.model.errors import Conflict


@dataclasses.dataclass(frozen=True)
class Entry:
    """A value, its key, and the revision that wrote it."""

    key: str
    value: dict[str, Any]
    revision: int


class Changed(Conflict):
    """A transaction's comparison did not hold: read again, and decide again."""

    code = "changed"


class Store(Protocol):
    """Copper's memory. Calls do not block the event loop, and are durable when they return."""

    async def get(self, key: str) -> Entry | None: ...

    async def list(self, prefix: str) -> list[Entry]:
        """All entries whose key begins with `prefix`, by key."""
        ...

    async def commit(
        self,
        *,
        expect: Mapping[str, int] = {},
        put: Mapping[str, dict[str, Any]] = {},
        delete: Sequence[str] = (),
    ) -> int:
        """Writes all or nothing; returns the new revision.

        `expect`: keys and the revisions that they must have, 0 for absent. Raises Changed.
        """
        ...

    async def close(self) -> None: ...
