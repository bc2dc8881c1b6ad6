"""What the controller writes down: the records of its tables, and their keys.

A key is its table's name, a slash, and the record's own name; the store sees JSON objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from copper.model.api import ClusterState, Limits, MemoryClass, Requirements, Strategy, Vm, VmLimits
from copper.model.machine import Record, Shape
from copper.model.networks import Attachment, Forward, Lease, Mode
from copper.model.operations import Operation
from copper.model.ssh import LoginKey
from copper.model.tickets import Ticket
from copper.model.usage import Usage
from copper.model.users import ROOT, Token, User

LIVE = ("starting", "running", "paused", "suspended")  # those that still belong to their cluster
HELD = (
    "starting",
    "running",
    "paused",
    "ending",
)  # those that take memory and processors of a host


def state_of(live: Sequence[str]) -> ClusterState:
    """Of a virtual cluster, by the states of its live VMs: it runs while one of them does."""
    if not live:
        return "defined"
    if all(state == "suspended" for state in live):
        return "suspended"
    if all(state == "paused" for state in live):
        return "paused"
    return "running"


class ClusterRow(Record):
    """A virtual cluster as it is written down. No vmid and no generation is used twice."""

    name: str
    image: str
    shape: Shape
    created: float
    owner: str = ROOT
    memory_class: MemoryClass = "shared"
    placement: Strategy = "near"
    requires: Requirements = Requirements()
    limits: Limits = Limits()
    vm_limits: VmLimits = VmLimits()
    networks: list[Attachment] = Field(default=[])
    egress: str = "none"
    intent: Literal["", "suspend", "resume"] = Field(
        default="", description="what was begun with the whole of it, to be finished after a crash"
    )
    next_vmid: int = 0
    next_generation: int = 0


class TokenRow(Token):
    """A token as it is written down: whoever reads the state cannot use it."""

    sha256: str


class Reply(Record):
    """What a request with an idempotency key was answered with, for when it comes again."""

    user: str
    key: str
    request_sha256: str = Field(description="of method, path and body: another request is refused")
    status: int | None = Field(description="None: it is being worked on, or was when Copper ended")
    body: Any = None
    created: float


class Learnt(Record):
    """What clones of an image were seen to write, in bytes of their own."""

    image: str
    own_bytes: float
    seen: int = Field(description="how many samples it stands on")
    recent: list[int] = Field(default=[], description="the last of them, the oldest first")


class UsageRow(Usage):
    """The usage of a virtual cluster in one hour."""


class Counted(Record):
    """How far the counters of a host's VMs are in the rows of usage; written with these."""

    host: str
    vms: dict[str, tuple[str, str, float, int, int, int, int]] = Field(
        description="by VM and process: virtual cluster, owner, and the counters of VmUse"
    )


class NetworkRow(Record):
    """A public network as it is written down. It stays as it was made."""

    name: str
    pool: list[str]
    mode: Mode
    bridge: str = ""
    created: float


class Joined(Record):
    """How a clone ended, kept for the VM that cloned it until that has collected it."""

    cluster: str
    ticket: str
    parent: int = Field(description="the vmid that cloned it")
    vmid: int
    status: int | None = Field(description="-1: it did not join; None: nobody is to be told")
    file: str | None = Field(default=None, description="its bytes in base64")
    ended: float


TABLES: dict[str, type[Record]] = {
    "networks": NetworkRow,
    "leases": Lease,
    "clusters": ClusterRow,
    "forwards": Forward,
    "vms": Vm,
    "tickets": Ticket,
    "users": User,
    "tokens": TokenRow,
    "operations": Operation,
    "replies": Reply,
    "learnt": Learnt,
    "usage": UsageRow,
    "counted": Counted,
    "joined": Joined,
    "login_keys": LoginKey,
}


def cluster_key(name: str) -> str:
    return f"clusters/{name}"


def login_key(cluster: str) -> str:
    return f"login_keys/{cluster}"


def vm_key(name: str) -> str:
    return f"vms/{name}"


def ticket_key(ticket: str) -> str:
    return f"tickets/{ticket}"


def network_key(name: str) -> str:
    return f"networks/{name}"


def lease_key(address: str) -> str:
    """Whatever its network is called: no two pools have addresses in common."""
    return f"leases/{address}"


def forward_key(protocol: str, host_port: int) -> str:
    """A VM may be on any host, so a port is given once for all of them."""
    return f"forwards/{protocol}/{host_port}"


def user_key(name: str) -> str:
    return f"users/{name}"


def token_key(token: str) -> str:
    return f"tokens/{token}"


def operation_key(operation: str) -> str:
    return f"operations/{operation}"


def reply_key(user: str, key: str) -> str:
    return f"replies/{user}/{key}"


def learnt_key(image: str) -> str:
    return f"learnt/{image}"


def usage_key(cluster: str, hour: int, owner: str = ROOT) -> str:
    """`hour`: since 1970. A name may be given to another owner's virtual cluster within the hour."""
    return f"usage/{cluster}/{hour:08d}/{owner}"


def counted_key(host: str) -> str:
    return f"counted/{host}"


def joined_key(ticket: str, vmid: int) -> str:
    return f"joined/{ticket}/{vmid}"
