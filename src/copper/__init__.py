"""Copper: a cluster operating system whose primitive is the live fork of whole virtual machines.

`copper.Client()` speaks to the Copper that the environment names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from copper.client import Client

__all__ = ["Client", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # loaded when it is used: commands say what is wrong with their arguments long before
    if name == "Client":
        from copper.client import Client

        return Client
    raise AttributeError(f"module 'copper' has no attribute {name!r}")
