"""Speaks to a Copper on this machine: typed calls of its API, and its streams."""

from __future__ import annotations

from copper.client.calls import Client

__all__ = ["Client"]
