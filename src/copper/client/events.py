"""The API's events: every change in order, over as many connections as it takes."""

from __future__ import annotations

import io
import json
import select
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from copper.client import check, http
from copper.client.caller import with_query
from copper.model.errors import CopperError, TimedOut
from copper.wire.problems import from_problem

if TYPE_CHECKING:
    from copper.client.caller import Caller

SILENCE_S = 60.0  # a server says something more often, if only that it is there
AGAIN_S = (0.1, 2.0)  # between two attempts: at first, and at most
_LONGEST = 1 << 24


@dataclass(frozen=True)
class Event:
    """One event of a stream (the HTML standard's server-sent events)."""

    id: str | None
    name: str
    data: str


def follow(
    caller: Caller, cluster: str | None, after: str | None, patience_s: float
) -> Iterator[Any]:
    """The changes after the position `after`; see `Client.events`."""
    query = {"cluster": check.a_cluster(cluster) if cluster is not None else None}
    path = with_query("/v1/events", query)
    heard = time.monotonic()
    pause_s = AGAIN_S[0]
    while True:
        headers = {"Accept": "text/event-stream"}
        if after is not None:
            headers["Last-Event-ID"] = after
        lost: CopperError = http.Broken("the events ended before they said where they were")
        try:
            with http.opened(
                caller.target, "GET", path, headers=headers, timeout_s=SILENCE_S
            ) as answer:
                for event in events_of(answer):
                    heard, pause_s = time.monotonic(), AGAIN_S[0]
                    if event.name == "error":
                        raise from_problem(json.loads(event.data))
                    after = event.id or after
                    if event.data:
                        yield caller._taken("Change", json.loads(event.data))
        except (http.Broken, http.NotRunning) as error:
            lost = error
        except TimedOut as error:
            if error.__cause__ is None:
                raise  # the server's own word
            lost = error
        # without a position there is no saying what came meanwhile
        if after is None or time.monotonic() - heard > patience_s:
            raise lost
        select.select([], [], [], pause_s)
        pause_s = min(2 * pause_s, AGAIN_S[1])


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
