"""The Copper that a command speaks to: the one that its environment names."""

from __future__ import annotations

from copper.client import Client
from copper.model.settings import Settings, from_environment


def settings() -> Settings:
    """Read anew for each command. Raises BadInput for a variable that is wrong."""
    return from_environment()


def client() -> Client:
    return Client(settings())
