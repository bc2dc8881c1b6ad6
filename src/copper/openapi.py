"""Writes docs/reference/openapi.json and routes.md from the routes themselves: `python -m copper.openapi`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI

import copper
from copper.controller.access import Access, asking
from copper.controller.accounts_api import routes as accounts_routes
from copper.controller.api import Front, install
from copper.controller.api.document import text_of
from copper.controller.book import Book
from copper.host.api import routes as host_routes
from copper.store.memory import MemoryStore
from copper.wire.app import new_app

FILE = Path(__file__).resolve().parents[2] / "docs/reference/openapi.json"
PAGE = FILE.with_name("routes.md")
HEAD = """# Routes of the API

What each route does, and the roles that may ask it. Bodies and answers are in [openapi.json](openapi.json), which is
made from the same routes and served at `/v1/openapi.json`; what holds for all of them is in [the API](api.md).

| request | roles | |
| --- | --- | --- |
"""


class _Nothing:
    """Stands where a part would, since routes are made and none is asked."""

    def __getattr__(self, name: str) -> Any:
        return self


def described() -> FastAPI:
    """The application with all its routes, over nothing."""
    nothing: Any = _Nothing()
    book = Book(MemoryStore())
    app = new_app("Copper", copper.__version__)
    front = Front(book, nothing, nothing, Access(book), nothing)
    install(app, front, accounts_routes(nothing, book, asking), host_routes(nothing))
    return app


def page_of(text: str) -> str:
    """The page with all routes, from the API's description."""
    rows = []
    for path, verbs in json.loads(text)["paths"].items():
        for verb, route in verbs.items():
            roles = ", ".join(route.get("x-roles") or ["everybody"])
            rows.append(f"| `{verb.upper()} {path}` | {roles} | {route.get('summary', '')} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    FILE.write_text(text_of(described()))
    PAGE.write_text(page_of(FILE.read_text()))
