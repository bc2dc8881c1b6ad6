"""`copper network create`: addresses that VMs can have."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import network_argument


@click.command()
@network_argument
@click.option(
    "--pool",
    "pools",
    required=True,
    multiple=True,
    metavar="ADDRESSES",
    help="FIRST-LAST, PREFIX/LENGTH or one address; repeatable.",
)
@click.option("--bridge", default="", help="The hosts' bridge or interface that it is on.")
@click.option(
    "--nat/--routed",
    default=True,
    show_default=True,
    help="Hosts translate each address of IPv4 to a VM's private one, or the VM has it itself.",
)
def create(name: str, pools: tuple[str, ...], bridge: str, nat: bool) -> None:
    """Make a public network NAME of a pool of addresses. Prints nothing.

    Hosts whose COPPER_NETWORKS names it have it: VMs with an address of it run there only. A VM
    gets an IPv4 and an IPv6 address where the pool has both.
    """
    here.api().create_network(name, list(pools), bridge=bridge, mode="nat" if nat else "routed")
