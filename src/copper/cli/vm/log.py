"""`gc-vm log`: what a VM wrote to its serial line."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import vm_argument
from copper.cli.output import put


@click.command()
@vm_argument
def log(vm: str) -> None:
    """Print what VM wrote to its serial line lately, at most 1 MiB."""
    put(here.client().log(vm))
