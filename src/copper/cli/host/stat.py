"""`gc-host stat`: what a host has and what of it is in use, in the form that scripts know."""

from __future__ import annotations

from typing import Any

import click

from copper.cli import here
from copper.cli.listing import format_option, list_rows
from copper.cli.host.list import COLUMNS
from copper.cli.output import say

WIDTH = len("Available Named Storage")
MIB = 1 << 20


@click.command()
@click.argument("host")
@format_option
def stat(host: str, form: str) -> None:
    """Show what HOST has and what of it is in use."""
    from urllib.parse import quote

    client = here.client()
    facts = client.call("GET", f"/v1/hosts/{quote(host, safe='')}")
    if form != "table":
        list_rows([facts], COLUMNS, form)
        return
    statuses = client.call("GET", "/host/v1/vms")
    for label, value in _lines(facts, statuses):
        say(f"{label:>{WIDTH}} {value}")


def _lines(facts: dict[str, Any], statuses: list[dict[str, Any]]) -> list[tuple[str, str]]:
    cpus = sum(status["shape"]["cpus"] for status in statuses)
    memory = sum(status["shape"]["memory_mib"] for status in statuses)
    total = facts["memory_bytes"] // MIB
    disk = facts["disk_bytes"] // MIB
    used = disk - facts["disk_free_bytes"] // MIB
    return [
        ("CPU(s)", f"{cpus} of {facts['cpus']} ({_percent(cpus, facts['cpus'])})"),
        ("RAM", f"{memory} of {total} ({_percent(memory, total)})"),
        ("Local disk", f"{used} of {disk} MB ({_percent(used, disk)})"),
        *((label, "[]") for label in _LISTS),
    ]


def _percent(part: int, whole: int) -> str:
    return f"{round(100 * part / whole) if whole else 0}%"


_LISTS = (
    "Available Named Storage",
    "Used Named Storage",
    "Available PCI Devices",
    "Used PCI Devices",
    "Available Networks",
    "Available Tags",
)
