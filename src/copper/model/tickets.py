"""Tickets: room for clones that was promised, as users and the store see it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from copper.model.machine import Asked, Record


class TicketRequest(Asked):
    """Room for clones of one VM: as many as fit, `minvms` at least."""

    maxcpus: int
    minvms: int = 1
    mincpuspervm: int = 1
    timeout_ms: int = 0


class Ticket(Record):
    """A reservation of room for clones. A master's own is used from the start."""

    id: str
    cluster: str
    owner: str = "root"
    holder: int = Field(description="the vmid that asked for it")
    cpus: int
    vms: int
    mincpuspervm: int
    status: Literal["granted", "used"]
    places: dict[str, int] = Field(default={}, description="how many of its VMs are on which host")
    vm_bytes: int = Field(default=0, description="memory reserved for each of its VMs")
    networks: list[str] = Field(
        default=[], description="public networks in which each of its VMs gets an address"
    )
    asked: bool = Field(default=False, description="by a request of its own, not by a clone call")
    created: float = Field(default=0, description="seconds since 1970")
    boot_id: str = Field(default="", description="the boot of the controller's host that counts")
    expires_at: float | None = Field(
        default=None,
        description="seconds since that boot, when it is taken back; a used one is not",
    )
