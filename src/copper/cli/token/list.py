"""`copper token list`: a user's tokens, without their secrets."""

from __future__ import annotations

import click

from copper.cli import here
from copper.cli.arguments import user_argument
from copper.cli.listing import Column, format_option, list_rows, moment

COLUMNS = [
    Column("id", "id"),
    Column("user", "user"),
    Column("note", "note"),
    Column("created", "created", moment),
    Column("expires", "expires", lambda value: "never" if value is None else moment(value)),
]


@click.command(name="list")
@user_argument
@format_option
def list_(name: str, form: str) -> None:
    """List the tokens of the user NAME. Their secrets are nowhere."""
    list_rows(here.api().tokens(name), COLUMNS, form, name="id")
