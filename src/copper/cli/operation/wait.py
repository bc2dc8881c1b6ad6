"""`copper operation wait`: until it is over, as if its command had waited."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import Duration
from copper.cli.operation.list import operation_argument
from copper.model.errors import Conflict


@click.command()
@operation_argument
@click.option("--timeout", type=Duration(), help="At most so long; exit status 6 then.")
def wait(operation: str, timeout: float | None) -> None:
    """Wait until the operation ID is over. Prints nothing.

    One that failed gives the error and the exit status of the command that began it; one that was
    cancelled the exit status 5.
    """
    from copper.wire.problems import from_problem

    ended = here.api().wait_operation(operation, timeout_s=timeout)
    if ended["state"] == "failed":
        raise from_problem(ended["problem"])
    if ended["state"] == "cancelled":
        raise Conflict(f"operation {operation} was cancelled")
