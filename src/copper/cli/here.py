"""The Copper that a command speaks to: the one that its environment names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from copper.model.settings import Settings, from_environment

if TYPE_CHECKING:
    from copper.client import Client


def settings() -> Settings:
    """Those of the Copper of this machine. Raises BadInput for a variable that is wrong."""
    return from_environment()


def client() -> Client:
    """The Copper at COPPER_URL, or the one of this machine. Raises BadInput as `settings` does."""
    from copper.client import Client

    return Client()


def api() -> Any:
    """The same, with answers as the API's JSON: commands show it, and need no records for that."""
    return client().raw
