"""Public networks: pools of addresses that hosts reach the world by, and what of them is a VM's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from copper.model.machine import Asked, Record

Mode = Literal["nat", "routed"]
Protocol = Literal["tcp", "udp"]
EVERYWHERE = ("0.0.0.0/0", "::/0")


class NewNetwork(Asked):
    """A public network to be made."""

    name: str
    pool: list[str] = Field(
        min_length=1,
        max_length=256,
        description="ranges such as 198.51.100.10-198.51.100.40, prefixes, or single addresses",
    )
    mode: Mode = Field(
        default="nat",
        description="nat: the host translates IPv4, one to one; routed: the address is the guest's own, as all of IPv6",
    )
    bridge: str = Field(
        default="",
        max_length=15,
        description="the bridge or interface of its hosts that it is on; empty: as they route",
    )


class Network(Record):
    """A public network. Users are told its name only."""

    name: str
    mode: Mode | None = None
    bridge: str | None = None
    pool: list[str] | None = None
    size: int | None = Field(default=None, description="VMs that it has addresses for")
    left: int | None = Field(default=None, description="VMs that could have one now")
    hosts: list[str] | None = Field(default=None, description="those that answer and have it")
    created: float | None = Field(default=None, description="seconds since 1970")


class Attachment(Asked):
    """That VMs of a virtual cluster get an address of a public network."""

    name: str
    master_only: bool = Field(default=False, description="its master, and none of its clones")


class Lease(Record):
    """An address that a VM has until it ends."""

    address: str
    network: str
    vm: str
    cluster: str


class NewForward(Asked):
    """A port of the hosts that leads to a VM of a virtual cluster."""

    vmid: int = Field(ge=0, le=999_999_999)
    host_port: int = Field(ge=1, le=65535)
    port: int = Field(ge=1, le=65535, description="of the VM")
    protocol: Protocol = "tcp"


class NewEgress(Asked):
    """What of the world the VMs of a virtual cluster reach."""

    egress: str = Field(max_length=4096, description="open, none, or prefixes with commas")


class Forward(Record):
    """A port of the hosts that leads to a VM, whenever that runs. No two have the same one."""

    cluster: str
    vmid: int
    host_port: int
    port: int
    protocol: Protocol = "tcp"


class PublicAddress(Record):
    """An address of a public network, and how its host brings it to a VM."""

    network: str
    address: str
    mode: Mode
    bridge: str = ""


class Exposure(Record):
    """How the world reaches a VM, and what of the world it reaches: what its host is told to see to."""

    vm: str
    cluster: str
    private: str = Field(description="its address in its private network")
    addresses: list[PublicAddress] = Field(default=[])
    egress: list[str] = Field(
        default=[], description="prefixes that it may reach; it has no other way out"
    )
    forwards: list[Forward] = Field(default=[])

    @property
    def is_private(self) -> bool:
        """Whether nothing goes in or out: all that a host does without being told."""
        return not (self.addresses or self.egress or self.forwards)

    @property
    def routed(self) -> list[str]:
        """Those of its addresses that are the guest's own."""
        return [one.address for one in self.addresses if one.mode == "routed"]

    @property
    def summary(self) -> str:
        """All of it in one line, as inventories have it."""
        parts = [f"{one.address} {one.mode} {one.bridge or '-'}" for one in self.addresses]
        parts += [f"{one.protocol} {one.host_port}:{one.port}" for one in self.forwards]
        return "; ".join([*parts, f"egress {','.join(self.egress) or 'none'}"])
