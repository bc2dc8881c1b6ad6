"""What virtual clusters and users have used, for accounts."""

from __future__ import annotations

from pydantic import Field

from copper.model.machine import Record


class Usage(Record):
    """What one virtual cluster used from `begin` to `end`; byte-seconds are memory times time."""

    cluster: str
    owner: str
    begin: float = Field(description="seconds since 1970")
    end: float
    vm_s: float = Field(default=0, description="VMs times the seconds that they were there")
    cpu_s: float = Field(default=0, description="processor seconds")
    nominal_byte_s: float = 0
    shared_byte_s: float = 0
    own_byte_s: float = 0
    reserved_byte_s: float = 0
    disk_read_bytes: int = 0
    disk_written_bytes: int = 0
    net_received_bytes: int = 0
    net_sent_bytes: int = 0
