"""The API's events: every change in order, over as many connections as it takes."""

from __future__ import annotations

import io
import json
import select
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING

from copper.client import check, http
from copper.client.caller import with_query
from copper.model.errors import CopperError, TimedOut
from copper.wire.problems import from_problem

if TYPE_CHECKING:
    from copper.client.caller import Caller
    from copper.model.operations import Change

SILENCE_S = 60.0  # a server says something more often, if only that it is there
AGAIN_S = (0.1, 2.0)  # between two attempts: at first, and at most
_LONGEST = 1 << 24


@dataclass(frozen=True)
class Event:
    """One event of a stream (the HTML standard's server-sent events)."""

    id: str | None
    name: str
    data: str


class Events:
    """An iterator of changes; see `Client.events`. It listens from its making on."""

    def __init__(
        self, caller: Caller, cluster: str | None, after: str | None, patience_s: float
    ) -> None:
        self.position = after  # of the last change that was given: where another one would go on
        self._caller = caller
        query = {"cluster": check.a_cluster(cluster) if cluster is not None else None}
        self._path = with_query("/v1/events", query)
        self._patience_s = patience_s
        self._connection = ExitStack()
        self._events: Iterator[Event] | None = None
        self._ready: list[Event] = []
        # a server says first where it begins: without that nobody could go on
        if (first := self._received()) is None:
            raise http.Broken("the events ended before they said where they were")
        self._ready.append(first)

    def __iter__(self) -> Iterator[Change]:
        return self

    def __next__(self) -> Change:
        while True:
            event = self._ready.pop() if self._ready else self._next()
            if event.name == "error":
                self.close()
                raise from_problem(json.loads(event.data))
            self.position = event.id or self.position
            if event.data:
                change: Change = self._caller._taken("Change", json.loads(event.data))
                return change

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hangs up; asking for more connects again."""
        self._events = None
        self._connection.close()

    def _next(self) -> Event:
        """The next event, from this connection or another one."""
        heard = time.monotonic()
        pause_s = AGAIN_S[0]
        lost: CopperError = http.Broken("the events broke off")
        while True:
            try:
                if (event := self._received()) is not None:
                    return event
            except (http.Broken, http.NotRunning) as error:
                lost = error
            except TimedOut as error:
                if error.__cause__ is None:
                    raise  # the server's own word
                lost = error
            # without a position there is no saying what came meanwhile
            if self.position is None or time.monotonic() - heard > self._patience_s:
                raise lost
            select.select([], [], [], pause_s)
            pause_s = min(2 * pause_s, AGAIN_S[1])

    def _received(self) -> Event | None:
        """The next event of the connection at hand, None when that is over."""
        if self._events is None:
            self._events = self._connect()
        try:
            event = next(self._events, None)
        except (OSError, HTTPException) as error:
            self.close()
            raise http.unreachable(error, self._caller.target, SILENCE_S) from error
        if event is None:
            self.close()
        return event

    def _connect(self) -> Iterator[Event]:
        headers = {"Accept": "text/event-stream"}
        if self.position is not None:
            headers["Last-Event-ID"] = self.position
        answer = self._connection.enter_context(
            http.opened(
                self._caller.target, "GET", self._path, headers=headers, timeout_s=SILENCE_S
            )
        )
        return events_of(answer)


def events_of(answer: io.BufferedIOBase) -> Iterator[Event]:
    """The events of one connection, until it ends; one without data has only a position."""
    position: str | None = None
    name, data = "", list[str]()
    while line := answer.readline(_LONGEST):
        text = line.decode(errors="replace").rstrip("\r\n")
        if not text:
            if data or position is not None:
                yield Event(position, name, "\n".join(data))
            position, name, data = None, "", []
            continue
        field, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if field == "id":
            position = value
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)
