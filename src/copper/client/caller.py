"""How the API's requests are made: pages, repeats with one effect, answers as records."""

from __future__ import annotations

import copy
import os
import select
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from copper.client import http, target
from copper.client.http import Answer
from copper.client.target import Target
from copper.model.errors import CopperError

if TYPE_CHECKING:
    from copper.model.settings import Settings

READ_S = 30.0  # most time for an answer that only reads
CHANGE_S = 900.0  # and for one that makes or ends VMs: many of them on a small machine
# seconds before each repeat: a controller that was killed serves again within two
REPEATS_S = (0.2, 0.6, 1.8)
PAGE = 10_000  # the most rows that the API gives at once

Query = Mapping[str, Any]


class Caller:
    """One Copper, as the generated methods of `copper.client.api` ask it.

    Each request is a connection of its own, so one may be used from several threads.
    """

    records: ClassVar[dict[str, str]] = {}  # where each record that is answered is defined

    def __init__(self, where: Settings | Target | None = None) -> None:
        if where is None:
            where = target.from_environment()
        self.target = where if isinstance(where, Target) else target.local(where)
        self._as_json = False

    @property
    def raw(self) -> Any:
        """The same client, whose every answer is the API's JSON as it is instead of records."""
        other = copy.copy(self)
        other._as_json = True
        return other

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One request, never repeated; the answer's JSON as it is."""
        return self._send(method, path, body).json()

    def _send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        if timeout_s is None:
            timeout_s = READ_S if method == "GET" else CHANGE_S
        return http.request(self.target, method, path, body, timeout_s=timeout_s, headers=headers)

    def _ask(
        self,
        kind: str,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        keyed: bool = False,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> Any:
        """One request of the API; `kind` is what its answer holds, as an annotation says it.

        With `keyed` it has a key of its own and is repeated when the connection broke. Without
        `wait` the answer is an Operation.
        """
        headers = {} if wait else {"Prefer": "respond-async"}
        path = with_query(path, query)
        if keyed:
            headers["Idempotency-Key"] = os.urandom(16).hex()
            answer = self._repeated(method, path, body, headers, timeout_s)
        else:
            answer = self._send(method, path, body, headers=headers, timeout_s=timeout_s)
        if kind == "bytes":
            return answer.body
        return self._taken("Operation" if answer.status == 202 else kind, answer.json())

    def _repeated(
        self,
        method: str,
        path: str,
        body: object,
        headers: Mapping[str, str],
        timeout_s: float | None,
    ) -> Answer:
        lost: CopperError | None = None
        for pause_s in (*REPEATS_S, None):
            try:
                return self._send(method, path, body, headers=headers, timeout_s=timeout_s)
            except http.Broken as error:
                lost = error
            except http.NotRunning:
                if lost is None:
                    raise  # nobody has heard of it
            if pause_s is not None:
                select.select([], [], [], pause_s)
        assert lost is not None
        raise lost

    def _pages(self, kind: str, path: str, query: Query) -> Iterator[Any]:
        """All of a listing, asked for page by page as it is used."""
        following: str | None = with_query(path, {"limit": PAGE, **query})
        while following is not None:
            answer = self._send("GET", following)
            yield from self._taken(f"list[{kind}]", answer.json())
            following = next_page(answer)

    def _taken(self, kind: str, body: Any) -> Any:
        """An answer's JSON as what it is a form of."""
        if self._as_json or kind in ("None", "Any"):
            return body
        several = kind.startswith("list[")
        name = kind[5:-1] if several else kind
        if (module := self.records.get(name)) is None:
            return body
        record = getattr(import_module(module), name)
        try:
            if several:
                return [record.model_validate(one) for one in body]
            return record.model_validate(body)
        except (TypeError, ValueError) as error:
            raise CopperError(
                f"Copper's answer is no {name}: {str(error).splitlines()[0]}",
                advice="this client and that Copper may be of different versions",
            ) from None


def with_query(path: str, query: Query | None) -> str:
    """The path with what of the query is given: None is not."""
    from urllib.parse import urlencode

    given = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in (query or {}).items()
        if value is not None
    }
    return f"{path}?{urlencode(given, doseq=True)}" if given else path


def next_page(answer: Answer) -> str | None:
    """Where an answer's Link header says that the listing goes on."""
    from urllib.parse import urlsplit

    for link in answer.headers.get_all("Link") or []:
        where, _, attributes = link.partition(">")
        if 'rel="next"' in attributes:
            parts = urlsplit(where.strip().removeprefix("<"))
            return f"{parts.path}?{parts.query}"
    return None


def given(**members: object) -> dict[str, object]:
    """The members of a body that were given: for the others the API has its defaults."""
    return {name: value for name, value in members.items() if value is not None}
