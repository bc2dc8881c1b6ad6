"""`gc-vc egress`: what of the world a virtual cluster reaches, shown or changed."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import cluster_argument
from copper.cli.listing import Column, format_option, show_row

COLUMNS = [Column("name", "name"), Column("egress", "egress")]


@click.command()
@cluster_argument
@click.argument("egress", required=False, metavar="[open|none|PREFIXES]")
@format_option
def egress(name: str, egress: str | None, form: str) -> None:
    """Show what of the world the virtual cluster NAME reaches, or change it.

    It holds at once: for VMs that run, whatever they have open, and for those to come.
    PREFIXES have commas between them, such as 192.0.2.0/24,2001:db8::/32.
    """
    api = here.api()
    if egress is None:
        show_row(api.cluster(name), COLUMNS, form)
    else:
        api.set_egress(name, egress)
