"""A store that forgets: for tests and simulations, with the same contract."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from copper.model.errors import CopperError
from copper.store.contract import CLOSED, HISTORY, Changes, Entry
from copper.store.draft import Draft, End, Grant, Request, Row, Write
from copper.store.feed import Feed
from copper.store.leases import Leases


@dataclasses.dataclass
class _Past:
    rows: dict[str, Row] = dataclasses.field(default_factory=dict)
    leases: dict[int, float] = dataclasses.field(default_factory=dict)

    def revision_of(self, key: str) -> int:
        return self.rows[key].revision if key in self.rows else 0

    def keys_of(self, lease: int) -> list[str]:
        return [key for key, row in self.rows.items() if row.lease == lease]

    def has_lease(self, lease: int) -> bool:
        return lease in self.leases


class MemoryStore:
    """See `contract.Store`. `history`: how many changes are kept for watchers."""

    def __init__(self, history: int = HISTORY) -> None:
        self._past = _Past()
        self._last_lease = 0
        self._leases = Leases(self._end)
        self._feed = Feed(0, history)
        self._closed = False

    async def get(self, key: str) -> Entry | None:
        self._check_open()
        row = self._past.rows.get(key)
        return Entry(key, json.loads(row.value), row.revision) if row else None

    async def list(self, prefix: str) -> list[Entry]:
        self._check_open()
        return [
            Entry(key, json.loads(row.value), row.revision)
            for key, row in sorted(self._past.rows.items())
            if key.startswith(prefix)
        ]

    async def revision(self) -> int:
        self._check_open()
        return self._feed.revision

    async def commit(
        self,
        *,
        expect: Mapping[str, int] = {},
        put: Mapping[str, dict[str, Any]] = {},
        delete: Sequence[str] = (),
        lease: int | None = None,
    ) -> int:
        return self._take(Write.of(expect, put, delete, lease))

    def watch(
        self, prefix: str, after: int | tuple[int, int] | None = None
    ) -> AsyncIterator[Changes]:
        return self._feed.watch(prefix, after)

    async def grant(self, ttl_s: float) -> int:
        return self._take(Grant(ttl_s))

    async def keep(self, lease: int) -> None:
        self._check_open()
        self._leases.keep(lease)

    async def revoke(self, lease: int) -> None:
        self._take(End(lease))

    async def close(self) -> None:
        self._closed = True
        self._leases.close()
        self._feed.close(CLOSED)
        self._past = _Past()

    def _check_open(self) -> None:
        if self._closed:
            raise CopperError(CLOSED)

    def _end(self, lease: int) -> None:
        self._take(End(lease))

    def _take(self, request: Request) -> int:
        self._check_open()
        draft = Draft(self._past, self._feed.revision, self._last_lease)
        result = draft.take(request)
        for key, row in draft.rows.items():
            if row is None:
                self._past.rows.pop(key, None)
            else:
                self._past.rows[key] = row
        for lease, ttl_s in draft.leases.items():
            if ttl_s is None:
                del self._past.leases[lease]
            else:
                self._past.leases[lease] = ttl_s
        self._last_lease = draft.lease
        self._leases.follow(draft.leases)
        self._feed.publish(draft.revision, draft.steps)
        return result
