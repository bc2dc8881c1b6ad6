"""`copper operation show`: one operation."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.listing import Column, format_option, show_row
from copper.cli.operation.list import COLUMNS, operation_argument

MORE = [Column("problem", "problem.detail")]


@click.command()
@operation_argument
@format_option
def show(operation: str, form: str) -> None:
    """Show the operation ID: how far it is, and what went wrong."""
    show_row(here.api().operation(operation), COLUMNS + MORE, form, name="id")
