"""`copper network show`: a public network, and who has its addresses."""

from __future__ import annotations

import ipaddress
from typing import Any

import click

from copper.cli import here
from copper.cli.arguments import network_argument
from copper.cli.listing import Column, format_option, moment, show_row
from copper.cli.network.list import COLUMNS


def _leases(value: Any) -> str:
    return ", ".join(f"{one['address']} {one['vm']}" for one in value or ()) or "-"


MORE = [Column("created", "created", moment), Column("leases", "leases", _leases)]


@click.command()
@network_argument
@format_option
def show(name: str, form: str) -> None:
    """Show the public network NAME, and which VM has which of its addresses.

    json is the API's body of the network, with the member `leases`.
    """
    api = here.api()
    row = api.network(name)
    row["leases"] = sorted(api.leases(name), key=_in_order)
    show_row(row, COLUMNS + MORE, form)


def _in_order(lease: dict[str, Any]) -> tuple[int, int]:
    address = ipaddress.ip_address(lease["address"])
    return address.version, int(address)
