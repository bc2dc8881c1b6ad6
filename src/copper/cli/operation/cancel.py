"""`copper operation cancel`: undoes what is not done yet."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.operation.list import operation_argument


@click.command()
@operation_argument
def cancel(operation: str) -> None:
    """Stop the operation ID, and undo what it began. Prints nothing.

    One that is over is a conflict.
    """
    here.api().cancel_operation(operation)
