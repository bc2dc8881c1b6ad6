"""`gc-vc show`: one virtual cluster."""

from __future__ import annotations

from typing import Any

import click

from copper.cli import here
from copper.cli.arguments import cluster_argument
from copper.cli.listing import Column, format_option, mib, moment, most, show_row, words
from copper.cli.vc.list import COLUMNS


def _networks(value: Any) -> str:
    shown = [f"{one['name']}{',master-only' * one['master_only']}" for one in value or ()]
    return words(shown)


MORE = [
    Column("memory class", "memory_class"),
    Column("placement", "placement"),
    Column("needs tags", "requires.tags", words),
    Column("needs networks", "requires.networks", words),
    Column("needs storage", "requires.storage", words),
    Column("networks", "networks", _networks),
    Column("egress", "egress"),
    Column("most vms", "limits.vms", most),
    Column("most cpus", "limits.cpus", most),
    Column("most memory", "limits.memory_mib", lambda mib: most(mib and f"{mib} MiB")),
    Column("disk", "shape.disk_bytes", mib),
    Column("next vmid", "next_vmid"),
    Column("created", "created", moment),
]


@click.command()
@cluster_argument
@format_option
def show(name: str, form: str) -> None:
    """Show the virtual cluster NAME."""
    show_row(here.api().cluster(name), COLUMNS + MORE, form)
