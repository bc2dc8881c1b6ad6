"""Speaks to a Copper, here or elsewhere: typed calls of its API, its streams and its events."""

from __future__ import annotations

from copper.client.calls import Client

__all__ = ["Client"]
