"""The API as typed methods. Made by `python -m copper.client.generate` from docs/reference/openapi.json."""

from __future__ import annotations

from typing import ClassVar

from copper.client.api.audit import AuditApi
from copper.client.api.clusters import ClustersApi
from copper.client.api.copper import CopperApi
from copper.client.api.hosts import HostsApi
from copper.client.api.images import ImagesApi
from copper.client.api.networks import NetworksApi
from copper.client.api.operations import OperationsApi
from copper.client.api.tickets import TicketsApi
from copper.client.api.usage import UsageApi
from copper.client.api.users import UsersApi
from copper.client.api.vms import VmsApi


class Api(
    AuditApi,
    ClustersApi,
    CopperApi,
    HostsApi,
    ImagesApi,
    NetworksApi,
    OperationsApi,
    TicketsApi,
    UsageApi,
    UsersApi,
    VmsApi,
):
    """Every operation of the API."""

    records: ClassVar[dict[str, str]] = {
        "Cluster": "copper.model.api",
        "Difference": "copper.model.audit",
        "Forward": "copper.model.networks",
        "Frozen": "copper.model.api",
        "Health": "copper.model.api",
        "HostFacts": "copper.model.api",
        "ImageInfo": "copper.model.api",
        "IssuedToken": "copper.model.users",
        "Lease": "copper.model.networks",
        "LoginKey": "copper.model.ssh",
        "Network": "copper.model.networks",
        "Operation": "copper.model.operations",
        "Principal": "copper.model.users",
        "Ticket": "copper.model.tickets",
        "Token": "copper.model.users",
        "Usage": "copper.model.usage",
        "User": "copper.model.users",
        "Vm": "copper.model.api",
        "VmStatus": "copper.model.api",
    }
