"""The controller's HTTP API (docs/reference/api.md): a module for each noun, over one Front."""

from __future__ import annotations

from fastapi import APIRouter

from copper.controller.api import clusters, hosts, operations, users, vms
from copper.controller.api.front import Front
from copper.controller.api.old import routes

__all__ = ["Front", "routers", "routes"]


def routers(front: Front) -> list[APIRouter]:
    """All that the controller serves, below /v1."""
    return [
        hosts.routes(front),
        users.routes(front),
        clusters.routes(front),
        vms.routes(front),
        operations.routes(front),
        hosts.host_routes(front),
    ]
