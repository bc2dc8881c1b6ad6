"""What a VM is made of: its shape, what it needs of a host, and who it is."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Accelerator = Literal["kvm", "tcg"]


class Record(BaseModel):
    """A frozen record. Unknown members are refused: what was written by a newer Copper is not guessed at."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Asked(Record):
    """What users ask for: a number is a number, and neither true nor infinite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Shape(Record):
    """What a QEMU process must have been started with to become a given VM."""

    memory_mib: int = Field(ge=32, le=1 << 20, multiple_of=2)
    cpus: int = Field(ge=1, le=64)
    disk_bytes: int = Field(ge=1 << 20, multiple_of=512)

    @property
    def memory_bytes(self) -> int:
        return self.memory_mib << 20


class Needs(Record):
    """What an image asks of the host that thaws it: a device state fits no other."""

    qemu: str  # version, such as 7.2.22
    machine: str  # versioned machine type, such as pc-q35-7.2
    accelerator: Accelerator
    processor: str  # QEMU's CPU model; under KVM with the host's own model name


class Identity(Record):
    """Who a VM is, as its guest agent is told (docs/reference/protocol.md)."""

    cluster: str
    vmid: int = Field(ge=0)
    name: str
    ip: str
    parent: int | None = None
    generation: int = Field(ge=0, default=0)
    ticket: str = ""
    vmids: list[int] = []
