"""The API's networks. Made by `python -m copper.client.generate` from docs/reference/openapi.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from copper.client import check
from copper.client.caller import Caller

if TYPE_CHECKING:
    from copper.model.api import Cluster
    from copper.model.networks import Forward, Lease, Mode, Network, Protocol


class NetworksApi(Caller):
    """What can be asked about networks. Every call may raise CopperError."""

    def networks(self) -> list[Network]:
        """The public networks; users are told their names."""
        return list(self.iter_networks())

    def iter_networks(self) -> Iterator[Network]:
        """The same one by one, asked for page by page."""
        return self._pages("Network", "/v1/networks", {})

    def create_network(
        self, name: str, pool: list[str], *, mode: Mode = "nat", bridge: str = ""
    ) -> Network:
        """Makes a public network of a pool of addresses."""
        answer: Network = self._ask(
            "Network",
            "POST",
            "/v1/networks",
            body={"name": name, "pool": pool, "mode": mode, "bridge": bridge},
            keyed=True,
        )
        return answer

    def network(self, name: str) -> Network:
        """One public network."""
        answer: Network = self._ask("Network", "GET", f"/v1/networks/{check.a_part(name)}")
        return answer

    def delete_network(self, name: str) -> None:
        """Forgets a public network that nobody has an address of, or names."""
        self._ask("None", "DELETE", f"/v1/networks/{check.a_part(name)}", keyed=True)

    def leases(self, name: str) -> list[Lease]:
        """Which VM has which address of a network."""
        return list(self.iter_leases(name=name))

    def iter_leases(self, name: str) -> Iterator[Lease]:
        """The same one by one, asked for page by page."""
        return self._pages("Lease", f"/v1/networks/{check.a_part(name)}/leases", {})

    def set_egress(self, name: str, egress: str) -> Cluster:
        """Sets what of the world its VMs reach, of those that run at once."""
        answer: Cluster = self._ask(
            "Cluster",
            "PUT",
            f"/v1/clusters/{check.a_cluster(name)}/egress",
            body={"egress": egress},
            keyed=True,
        )
        return answer

    def forwards(self, name: str) -> list[Forward]:
        """The hosts' ports that lead to VMs of a virtual cluster."""
        return list(self.iter_forwards(name=name))

    def iter_forwards(self, name: str) -> Iterator[Forward]:
        """The same one by one, asked for page by page."""
        return self._pages("Forward", f"/v1/clusters/{check.a_cluster(name)}/forwards", {})

    def create_forward(
        self, name: str, vmid: int, host_port: int, port: int, *, protocol: Protocol = "tcp"
    ) -> Forward:
        """Has a port of the hosts lead to a VM, whenever that runs."""
        answer: Forward = self._ask(
            "Forward",
            "POST",
            f"/v1/clusters/{check.a_cluster(name)}/forwards",
            body={"vmid": vmid, "host_port": host_port, "port": port, "protocol": protocol},
            keyed=True,
        )
        return answer

    def delete_forward(self, name: str, protocol: str, host_port: str) -> None:
        """Has a port of the hosts lead nowhere."""
        self._ask(
            "None",
            "DELETE",
            f"/v1/clusters/{check.a_cluster(name)}/forwards/{check.a_part(protocol)}/{check.a_part(host_port)}",
            keyed=True,
        )
