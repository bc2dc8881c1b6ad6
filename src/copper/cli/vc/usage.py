"""`gc-vc usage`: what virtual clusters and users have used."""

from __future__ import annotations

from typing import Any

import click

from copper.cli import here
from copper.cli.arguments import CLUSTER, Moment
from copper.cli.listing import Column, format_option, list_rows, mib, moment

HOUR = 3600


def hours(value: Any) -> str:
    return f"{value / HOUR:.2f}"


def gib_hours(value: Any) -> str:
    return f"{value / (1 << 30) / HOUR:.3f}"


OWNER = Column("owner", "owner")
NUMBERS = [
    Column("vm hours", "vm_s", hours, right=True),
    Column("cpu seconds", "cpu_s", lambda value: f"{value:.1f}", right=True),
    Column("memory GiB h", "nominal_byte_s", gib_hours, right=True),
    Column("own GiB h", "own_byte_s", gib_hours, right=True),
    Column("shared GiB h", "shared_byte_s", gib_hours, right=True),
    Column("disk read", "disk_read_bytes", mib, right=True),
    Column("written", "disk_written_bytes", mib, right=True),
    Column("received", "net_received_bytes", mib, right=True),
    Column("sent", "net_sent_bytes", mib, right=True),
    Column("from", "begin", moment),
    Column("to", "end", moment),
]


@click.command()
@click.argument("name", type=CLUSTER, required=False, metavar="[NAME]")
@click.option(
    "--by",
    type=click.Choice(["cluster", "user"]),
    default="cluster",
    show_default=True,
    help="What a line is about.",
)
@click.option("--since", type=Moment(), help="A date, a date and time, or 7d for a week ago.")
@click.option("--until", type=Moment(), help="As --since.")
@format_option
def usage(name: str | None, by: str, since: float | None, until: float | None, form: str) -> None:
    """Show what virtual clusters used, or the virtual cluster NAME, ended and deleted ones as well.

    Memory is over time: a VM of 1 GiB that was there for two hours used 2 GiB h. Accounts are
    kept by the hour; every hour that has a part between --since and --until counts as a whole.
    """
    rows = here.api().usage(cluster=name, by=by, begin=since, end=until)
    first = [OWNER] if by == "user" else [Column("cluster", "cluster"), OWNER]
    list_rows(rows, first + NUMBERS, form, name=first[0].field)
