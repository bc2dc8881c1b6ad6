"""A store that forgets: for tests and simulations, with the same contract."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from copper.store.contract import Changed, Entry


class MemoryStore:
    """See `contract.Store`."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[str, int]] = {}
        self._revision = 0

    async def get(self, key: str) -> Entry | None:
        found = self._entries.get(key)
        return Entry(key, json.loads(found[0]), found[1]) if found else None

    async def list(self, prefix: str) -> list[Entry]:
        return [
            Entry(key, json.loads(value), revision)
            for key, (value, revision) in sorted(self._entries.items())
            if key.startswith(prefix)
        ]

    async def commit(
        self,
        *,
        expect: Mapping[str, int] = {},
        put: Mapping[str, dict[str, Any]] = {},
        delete: Sequence[str] = (),
    ) -> int:
        for key, wanted in expect.items():
            found = self._entries[key][1] if key in self._entries else 0
            if found != wanted:
                raise Changed(f"{key} has revision {found}, {wanted} was expected")
        self._revision += 1
        for key in delete:
            self._entries.pop(key, None)
        for key, value in put.items():
            self._entries[key] = (json.dumps(value), self._revision)
        return self._revision

    async def close(self) -> None:
        self._entries.clear()
