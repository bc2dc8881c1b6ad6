"""What changes, in order, as server-sent events: the store's own history, so that a reader can go on where it was.

Nothing is skipped. A position that the history does not reach back to is refused before the stream begins, and a reader
that falls that far behind is told so as the last event.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal, Protocol

from copper.controller.access import may_see
from copper.controller.book import Book
from copper.controller.rows import ClusterRow, cluster_key
from copper.model.api import Cluster
from copper.model.errors import BadInput, CopperError, TooOld, Unauthorized
from copper.model.machine import Record
from copper.model.operations import Change
from copper.model.users import Principal
from copper.store import contract
from copper.wire.problems import to_problem

HEARTBEAT_S = 15.0
FIRST_S = 5.0  # how long the store may take to say whether it has what a reader asks for
ChangeKind = Literal["cluster", "vm", "ticket", "operation", "user"]
Position = tuple[int, int | None]  # a revision, and the number of a change in it; None: all of it
REMEMBERED = 50_000  # things that are gone, and whose they were
KINDS: dict[str, ChangeKind] = {
    "clusters": "cluster",
    "vms": "vm",
    "tickets": "ticket",
    "operations": "operation",
    "users": "user",
}  # the tables that are shown; tokens and answers are secret

Whose = tuple[str, str]  # its owner, and its virtual cluster


class Clusters(Protocol):
    """What is asked of the core: a virtual cluster as users see it."""

    def cluster(self, name: str) -> Cluster: ...


class Events:
    """Streams of changes."""

    def __init__(self, book: Book, clusters: Clusters, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._book = book
        self._clusters = clusters
        self._heartbeat_s = heartbeat_s
        self._gone: collections.OrderedDict[str, Whose] = collections.OrderedDict()
        book.on_change(self._changed)

    def _changed(self, key: str, before: Record | None, after: Record | None) -> None:
        if before is None or after is not None or (kind := _kind_of(key)) is None:
            return
        self._gone.pop(key, None)
        self._gone[key] = _whose(kind, dict(before))
        while len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)

    async def stream(
        self,
        who: Principal,
        after: str,
        kinds: Sequence[str],
        cluster: str | None,
        check: Callable[[], None],
    ) -> AsyncIterator[bytes]:
        """The changes behind the position `after`, from now on where it is empty.

        `check` raises Unauthorized when who asked may not any more. Raises BadInput, TooOld before there is a stream.
        """
        position = parse_position(after)
        last = await self._book.store.revision()
        begin = position or (last, None)
        watch = aiter(
            self._book.store.watch("", begin[0] if begin[1] is None else (begin[0], begin[1]))
        )
        first = asyncio.ensure_future(anext(watch))
        if position is not None and position[0] != last:
            # there is something behind it, or it is refused: known as soon as the store has looked
            await asyncio.wait({first}, timeout=FIRST_S)
            if first.done() and (error := first.exception()) is not None:
                raise error
        chosen = _Chosen(self, who, {*kinds} or {*KINDS.values()}, cluster)
        return self._follow(watch, first, _shown_position(begin), chosen, check)

    async def _follow(
        self,
        watch: AsyncIterator[contract.Changes],
        following: asyncio.Future[contract.Changes],
        position: str,
        chosen: _Chosen,
        check: Callable[[], None],
    ) -> AsyncIterator[bytes]:
        try:
            yield f": copper\nid: {position}\n\n".encode()
            while True:
                await asyncio.wait({following}, timeout=self._heartbeat_s)
                check()
                if not following.done():
                    # with the position, since what is not shown moves it on as well
                    yield f": {self._heartbeat_s:g} s\nid: {position}\n\n".encode()
                    continue
                changes = following.result()
                for change in changes:
                    position = _shown_position(change.position)
                    if (shown := chosen.shown(change)) is not None:
                        yield f"id: {shown.id}\ndata: {shown.model_dump_json()}\n\n".encode()
                following = asyncio.ensure_future(anext(watch))
        except (TooOld, Unauthorized) as error:
            yield f"event: error\ndata: {json.dumps(to_problem(error))}\n\n".encode()
        except (CopperError, StopAsyncIteration):
            return  # Copper ends; the reader may go on where it was when it is back
        finally:
            following.cancel()
            with contextlib.suppress(BaseException):
                await following

    def cluster_of(self, value: dict[str, Any]) -> dict[str, Any]:
        """A virtual cluster's row as users see it, with the state and VMs that it has now."""
        row = ClusterRow.model_validate(value)
        seen: dict[str, Any] = {"state": "defined", "vms": 0}
        there = self._book.find(cluster_key(row.name), ClusterRow)
        if there is not None and there.created == row.created:  # not another of that name
            now = self._clusters.cluster(row.name)
            seen = {"state": now.state, "vms": now.vms}
        fields = {name: value for name, value in row if name in Cluster.model_fields}
        return Cluster.model_validate(fields | seen).model_dump(mode="json")

    def gone(self, key: str, seen: dict[str, Whose]) -> Whose:
        """Whose something was that was deleted. Raises TooOld when that is not known any more."""
        whose = seen.get(key) or self._gone.get(key)
        table, _, name = key.partition("/")
        if whose is None and table == "users":
            whose = (name, "")
        if whose is None and table == "vms":
            row = self._book.find(cluster_key(name.rpartition("-")[0]), ClusterRow)
            whose = (row.owner, row.name) if row is not None else None
        if whose is None:
            raise TooOld(
                "whose a change was is not known any more: Copper was started since",
                advice="list what there is, and watch from now on",
            )
        return whose


class _Chosen:
    """What one reader is shown."""

    def __init__(
        self, events: Events, who: Principal, kinds: set[str], cluster: str | None
    ) -> None:
        self._events = events
        self._who = who
        self._kinds = kinds
        self._cluster = cluster
        self._seen: dict[str, Whose] = {}  # of what is there, as far as this stream told of it

    def shown(self, change: contract.Change) -> Change | None:
        kind = _kind_of(change.key)
        if kind is None or kind not in self._kinds:
            return None
        name = change.key.partition("/")[2]
        if not (self._who.sees_all and self._cluster is None):
            owner, cluster = self._whose(kind, change)
            if not may_see(self._who, owner) or self._cluster not in (None, cluster):
                return None
        body = change.value
        if kind == "cluster" and body is not None:
            body = self._events.cluster_of(body)
        id = _shown_position(change.position)
        return Change(
            id=id, kind=kind, name=name, change="deleted" if body is None else "put", body=body
        )

    def _whose(self, kind: ChangeKind, change: contract.Change) -> Whose:
        if change.value is None:
            whose = self._events.gone(change.key, self._seen)
            self._seen.pop(change.key, None)
            return whose
        whose = self._seen[change.key] = _whose(kind, change.value)
        return whose


def parse_position(text: str) -> Position | None:
    """REVISION.N, or REVISION for all of it; None for an empty one. Raises BadInput."""
    if not text:
        return None
    revision, dot, number = text.partition(".")
    whole = revision.isascii() and revision.isdecimal() and len(revision) < 16
    if not whole or (dot and not (number.isascii() and number.isdecimal() and len(number) < 16)):
        raise BadInput(
            f"{text!r:.60} is no position", advice="expected the id of an event, REVISION.N"
        )
    return int(revision), int(number) if dot else None


def _shown_position(position: Position) -> str:
    revision, number = position
    return str(revision) if number is None else f"{revision}.{number}"


def _kind_of(key: str) -> ChangeKind | None:
    return KINDS.get(key.partition("/")[0])


def _whose(kind: ChangeKind, value: dict[str, Any]) -> Whose:
    if kind == "user":
        return value["name"], ""
    return value["owner"], value["name"] if kind == "cluster" else value["cluster"]
