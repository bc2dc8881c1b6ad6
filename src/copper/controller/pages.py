"""Listings: a page of records in order, as JSON, and where the next page is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

from fastapi import Request, Response
from pydantic import Field, TypeAdapter

from copper.model.errors import BadInput
from copper.model.machine import Record

R = TypeVar("R", bound=Record)

PAGE = 1000
PAGE_MOST = 10_000


class Page(Record):
    """What every listing takes; filters are members of its kinds. One that is not known is refused."""

    limit: int = Field(default=PAGE, ge=1, le=PAGE_MOST, description="most entries of the answer")
    after: str = Field(
        default="", max_length=253, description="the last name of the page before; empty: the first"
    )


class Listing(Generic[R]):
    """How records of one kind are listed. `name` is what `after` takes."""

    def __init__(self, kind: type[R], name: Callable[[R], str]) -> None:
        # straight to JSON: a page of ten thousand is not checked again, and never made of dictionaries
        self._json: TypeAdapter[list[R]] = TypeAdapter(list[kind])  # type: ignore[valid-type]
        self._name = name

    def by_name(self, rows: Iterable[R], page: Page, request: Request) -> Response:
        """A page of records that are in the order of their names."""
        return self.answer((row for row in rows if self._name(row) > page.after), page, request)

    def answer(self, rows: Iterable[R], page: Page, request: Request) -> Response:
        """A page of records in order, those behind `after` only; no more is taken than it shows. Raises BadInput."""
        given = [name for name, _ in request.query_params.multi_items()]
        if len(given) != len(set(given)):
            twice = next(name for name in given if given.count(name) > 1)
            raise BadInput(f"{twice}: given more than once")
        found = list(islice(rows, page.limit + 1))
        headers = {}
        if len(found) > page.limit:
            del found[page.limit :]
            headers["link"] = f'<{_next(request, self._name(found[-1]))}>; rel="next"'
        return Response(self._json.dump_json(found), media_type="application/json", headers=headers)


def _next(request: Request, last: str) -> str:
    query: list[tuple[str, Any]] = [
        (name, value) for name, value in request.query_params.multi_items() if name != "after"
    ]
    return f"{request.url.path}?{urlencode([*query, ('after', last)])}"
