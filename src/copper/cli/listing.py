"""Listings: the same rows as a table, JSON, CSV or bare names."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from copper.cli.output import say

FORMATS = ["table", "json", "csv", "name"]
Row = dict[str, Any]

format_option = click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="How to show it; json is the API's own body.",
)


@dataclass(frozen=True)
class Column:
    """A field of the API's body, such as `shape.cpus`; `shown` is for tables only."""

    title: str
    field: str
    shown: Callable[[Any], str] = lambda value: "-" if value in (None, "") else str(value)
    right: bool = False

    def value(self, row: Row) -> Any:
        value: Any = row
        for part in self.field.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value


def list_rows(rows: list[Row], columns: list[Column], form: str, *, name: str = "name") -> None:
    """Shows many; `name` is the field that names one."""
    if form == "table":
        _table(rows, columns)
    else:
        _plain(rows, columns, form, rows, name)


def show_row(row: Row, columns: list[Column], form: str, *, name: str = "name") -> None:
    """Shows one: a table has a line for each field."""
    if form == "table":
        width = max(len(column.title) for column in columns)
        for column in columns:
            say(f"{column.title:{width}}  {column.shown(column.value(row))}")
    else:
        _plain([row], columns, form, row, name)


def _table(rows: list[Row], columns: list[Column]) -> None:
    cells = [[column.shown(column.value(row)) for column in columns] for row in rows]
    lines = [[column.title.upper() for column in columns], *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        aligned = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        say("  ".join(aligned).rstrip())


def _plain(rows: list[Row], columns: list[Column], form: str, body: object, name: str) -> None:
    if form == "json":
        say(json.dumps(body, indent=2, ensure_ascii=False))
    elif form == "name":
        for row in rows:
            say(str(row[name]))
    else:
        import csv
        import io

        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([column.field.replace(".", "_") for column in columns])
        for row in rows:
            writer.writerow([_cell(column.value(row)) for column in columns])
        say(text.getvalue().removesuffix("\n"))


def _cell(value: Any) -> Any:
    """A list as its words, or as JSON where it has more than words: CSV has no lists."""
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return json.dumps(value, ensure_ascii=False)
    return " ".join(map(str, value)) if isinstance(value, list) else value


def words(value: Any) -> str:
    return " ".join(map(str, value)) if value else "-"


def most(value: Any) -> str:
    """A limit."""
    return "no limit" if value is None else str(value)


def mib(value: Any) -> str:
    """Bytes as MiB, with a tenth where it says something."""
    if not isinstance(value, int | float):
        return "-"
    size = value / (1 << 20)
    return f"{size:.1f} MiB" if size < 100 else f"{size:.0f} MiB"


def number_of_mib(value: Any) -> str:
    return "-" if value is None else f"{value} MiB"


def moment(value: Any) -> str:
    """Seconds since 1970 as local time."""
    if not isinstance(value, int | float):
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))


def milliseconds(value: Any) -> str:
    return "-" if value is None else f"{value:.1f} ms"
