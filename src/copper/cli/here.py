"""The Copper that a command speaks to: the one that its environment names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from copper.model.settings import Settings, from_environment

if TYPE_CHECKING:
    from copper.client import Client


def settings() -> Settings:
    """Read anew for each command. Raises BadInput for a variable that is wrong."""
    return from_environment()


def client() -> Client:
    from copper.client import Client

    return Client(settings())
