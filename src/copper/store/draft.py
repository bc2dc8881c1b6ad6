"""What requests do to a store: each is compared and applied alone, on top of the ones before it. Pure.

A draft collects what a whole batch of requests comes to, so that a store can write it at once, or not at all.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from copper.model.errors import BadInput, NotFound
from copper.store.contract import Change, Changed

END = 2**31  # as a change's number: behind all changes of a revision
Position = tuple[int, int]  # a revision, and a change's number in it


class Row(NamedTuple):
    """What a key has: its value as JSON, the revision that wrote it, and its lease, 0 for none."""

    value: str
    revision: int
    lease: int


class Step(NamedTuple):
    """A `Change` as the history keeps it: its value is JSON."""

    revision: int
    number: int
    key: str
    value: str | None

    def change(self) -> Change:
        value = None if self.value is None else json.loads(self.value)
        return Change(self.key, value, self.revision, self.number)


class Past(Protocol):
    """What the store has on disk, or in memory, under a draft."""

    def revision_of(self, key: str) -> int: ...

    def keys_of(self, lease: int) -> Iterable[str]: ...

    def has_lease(self, lease: int) -> bool: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Write:
    """A commit: what must hold, and what is written then."""

    expect: dict[str, int]
    put: dict[str, str]
    delete: tuple[str, ...]
    lease: int

    @classmethod
    def of(
        cls,
        expect: Mapping[str, int],
        put: Mapping[str, dict[str, Any]],
        delete: Sequence[str],
        lease: int | None,
    ) -> Write:
        """Takes copies: what the caller changes later is not written. Raises BadInput."""
        try:
            "".join((*expect, *put, *delete)).encode()
        except UnicodeEncodeError as error:  # one bad key must not fail those of its batch
            raise BadInput(f"a key of the state is no text: {error}") from None
        # each once, and a key that is put is not deleted
        deleted = tuple(key for key in dict.fromkeys(delete) if key not in put)
        encoded = {key: json.dumps(value) for key, value in put.items()}
        return cls(dict(expect), encoded, deleted, lease or 0)


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """A new lease of so many seconds."""

    ttl_s: float

    def __post_init__(self) -> None:
        if not 0 < self.ttl_s < float("inf"):
            raise BadInput(f"a lease of {self.ttl_s} seconds: expected more than 0")


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """The end of a lease and of its keys."""

    lease: int


Request = Write | Grant | End


class Draft:
    """What requests come to. Each either raises and changes nothing, or takes effect for those after it."""

    def __init__(self, past: Past, revision: int, lease: int) -> None:
        """`lease` is the highest that was ever granted: no number is given out twice."""
        self._past = past
        self.revision = revision
        self.lease = lease
        self.rows: dict[str, Row | None] = {}
        self.leases: dict[int, float | None] = {}  # their seconds; None for ended
        self.steps: list[Step] = []

    def take(self, request: Request) -> int:
        """Returns the new revision, or the new lease. Raises Changed, NotFound."""
        match request:
            case Write():
                return self._write(request)
            case Grant():
                self.lease += 1
                self.leases[self.lease] = request.ttl_s
                return self.lease
            case End():
                return self._end(request.lease)

    def _write(self, request: Write) -> int:
        for key, wanted in request.expect.items():
            found = self._revision_of(key)
            if found != wanted:
                raise Changed(f"{key} has revision {found}, {wanted} was expected")
        if request.lease:
            self._check(request.lease)
        self.revision += 1
        self._delete(request.delete)
        for key, value in request.put.items():
            self.rows[key] = Row(value, self.revision, request.lease)
            self._step(key, value)
        return self.revision

    def _end(self, lease: int) -> int:
        self._check(lease)
        self.leases[lease] = None
        keys = {key for key in self._past.keys_of(lease) if key not in self.rows}
        keys |= {key for key, row in self.rows.items() if row is not None and row.lease == lease}
        if keys:
            self.revision += 1
            self._delete(sorted(keys))
        return self.revision

    def _delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            if self._revision_of(key):
                self.rows[key] = None
                self._step(key, None)

    def _step(self, key: str, value: str | None) -> None:
        last = self.steps[-1] if self.steps else None
        number = last.number + 1 if last is not None and last.revision == self.revision else 0
        self.steps.append(Step(self.revision, number, key, value))

    def _revision_of(self, key: str) -> int:
        if key in self.rows:
            row = self.rows[key]
            return row.revision if row is not None else 0
        return self._past.revision_of(key)

    def _check(self, lease: int) -> None:
        here = self.leases[lease] is not None if lease in self.leases else None
        if here is False or (here is None and not self._past.has_lease(lease)):
            raise over(lease)


def over(lease: int) -> NotFound:
    """The error of who uses a lease that there is not, or not any more."""
    return NotFound(f"the lease {lease} is over", advice="grant a new one")
