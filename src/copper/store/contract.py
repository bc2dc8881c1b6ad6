"""What any store of Copper's state must do: get, list, write all or nothing after comparing, watch, and lease.

Values are JSON objects under string keys. Every write gets the next revision of the whole store; a record's own is the
revision that wrote it, and 0 for a key that is not there. What etcd would do behind this contract: a commit is one
`Txn` (compare ModRevision, then put and delete), a watch one `Watch` over the whole prefix of Copper, a lease a lease.

To follow what changes: take `revision()`, then `list()`, then `watch(prefix, after=that revision)`. What was written
between the two is seen twice, never not at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from copper.model.errors import Conflict

HISTORY = 20_000  # changes that a store keeps for watchers that come back, if not told otherwise
CLOSED = "the state is not open"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A value, its key, and the revision that wrote it."""

    key: str
    value: dict[str, Any]
    revision: int


@dataclasses.dataclass(frozen=True)
class Change:
    """What one key became in a revision: a value, or None when it was deleted.

    `number` counts the changes of a revision from 0, whatever their keys: first what was deleted, then what was put.
    """

    key: str
    value: dict[str, Any] | None
    revision: int
    number: int

    @property
    def position(self) -> tuple[int, int]:
        """Where a watch goes on behind this change."""
        return self.revision, self.number


Changes = list[Change]  # within a store, `list` is its method


class Changed(Conflict):
    """A transaction's comparison did not hold: read again, and decide again."""

    code = "changed"


class Store(Protocol):
    """Copper's memory. Calls do not block the event loop, and are durable when they return."""

    async def get(self, key: str) -> Entry | None: ...

    async def list(self, prefix: str) -> list[Entry]:
        """All entries whose key begins with `prefix`, by key."""
        ...

    async def revision(self) -> int:
        """The last revision that a call has returned, here or before the store was opened; 0 in a new store."""
        ...

    async def commit(
        self,
        *,
        expect: Mapping[str, int] = {},
        put: Mapping[str, dict[str, Any]] = {},
        delete: Sequence[str] = (),
        lease: int | None = None,
    ) -> int:
        """Writes all or nothing; returns the new revision.

        `expect`: keys and the revisions that they must have, 0 for absent. A key that is both put and deleted is put.
        `lease`: the keys that are put live as long as it does; put again without it, they stay. Raises Changed;
        NotFound, when the lease is over; NoRoom. Nothing is written then.

        Commits take effect in the order of their calls, each alone: the call's place is taken before it first waits,
        and a caller that goes away does not undo it.
        """
        ...

    def watch(
        self, prefix: str, after: int | tuple[int, int] | None = None
    ) -> AsyncIterator[Changes]:
        """All changes of keys that begin with `prefix`, in order, each once, none skipped; waits for more at the end.

        `after`: a revision, or the position of one change in it, behind which to go on; None is from now on. A list
        has at least one change, and may end within a revision. Raises TooOld when the history does not reach back to
        where this watch is (also if its reader is that slow) or never came there; CopperError when the store is
        closed. It needs no closing: one that is left holds nothing.
        """
        ...

    async def grant(self, ttl_s: float) -> int:
        """A new lease, which is over `ttl_s` seconds from now or from the last `keep`; its keys are deleted then.

        Never earlier, by a clock that nobody sets. A store that is opened again gives each lease all its time again.
        """
        ...

    async def keep(self, lease: int) -> None:
        """Gives a lease all its time again. Raises NotFound when it is over."""
        ...

    async def revoke(self, lease: int) -> None:
        """Ends a lease now: its keys are deleted, in one revision. Raises NotFound when it is over, NoRoom."""
        ...

    async def close(self) -> None:
        """What was committed before is written; watchers end with an error. A closed store may be closed again."""
        ...
