"""`copper user create`: somebody who may have virtual clusters."""

from __future__ import annotations

from typing import Any

import click

from copper.cli import here
from copper.cli.arguments import most, most_options, user_argument

role_option = click.option(
    "--role",
    type=click.Choice(["admin", "user"]),
    help="A user sees and touches their own virtual clusters only.",
)


@click.command()
@user_argument
@role_option
@most_options("all their virtual clusters")
def create(name: str, role: str | None, max_vms: Any, max_cpus: Any, max_memory: Any) -> None:
    """Make a user NAME, with the role `user` if no other is given. Prints nothing.

    copper token create NAME makes what they show.
    """
    quota = most({}, max_vms, max_cpus, max_memory)
    here.api().create_user(name, role=role or "user", quota=quota)
