"""`copper audit`: whether what is written down is what there is."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.listing import Column, format_option, list_rows

COLUMNS = [
    Column("thing", "thing"),
    Column("name", "name"),
    Column("host", "host"),
    Column("difference", "says"),
    Column("mend", "mend"),
    Column("mended", "mended", lambda value: "yes" if value else "no"),
]
AGREES, DIFFERS, PARTLY = 0, 5, 7


@click.command()
@click.option("--repair", is_flag=True, help="Mend what is safe to mend.")
@format_option
def audit(repair: bool, form: str) -> int:
    """Compare the state with processes, disks, memory files, sockets and cgroups of all hosts.

    Prints every difference, and nothing when there is none.

    \b
    Exit status:
      0  nothing differs, or all was mended
      5  differences are left
      7  some were mended, and some are left
    """
    api = here.api()
    found = api.repair() if repair else api.audit()
    if found or form != "table":
        list_rows(found, COLUMNS, form)
    left = [one for one in found if not one["mended"]]
    if not left:
        return AGREES
    return PARTLY if len(left) < len(found) else DIFFERS
