"""`copper user change`: a user's role and quota."""

from __future__ import annotations

from typing import Any

import click

from copper.cli import here
from copper.cli.arguments import most, most_options, user_argument
from copper.cli.user.create import role_option
from copper.model.errors import BadInput


@click.command()
@user_argument
@role_option
@most_options("all their virtual clusters")
def change(name: str, role: str | None, max_vms: Any, max_cpus: Any, max_memory: Any) -> None:
    """Change what is given of the user NAME, at once. Prints nothing.

    The value none takes a limit away. A lower one ends nothing that is there already.
    """
    limits = (max_vms, max_cpus, max_memory)
    if role is None and limits == (None, None, None):
        raise BadInput("nothing to change", advice="copper user show shows a user")
    given: dict[str, Any] = {} if role is None else {"role": role}
    api = here.api()
    if limits != (None, None, None):
        given["quota"] = most(api.user(name)["quota"], *limits)
    api.change_user(name, **given)
