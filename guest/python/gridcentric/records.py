"""What lists are made of."""

from typing import NamedTuple, Optional


class Ticket(NamedTuple):
    """Room for clones that was promised."""

    id: str
    status: str
    cpus: int
    vms: int
    mincpuspervm: int


class Clone(NamedTuple):
    """A clone that was made on a ticket."""

    vmid: int
    ip: str
    state: str


class Vm(NamedTuple):
    """A live VM of this virtual cluster. The master has no parent."""

    vmid: int
    address: str
    generation: int
    parent: Optional[int]
    state: str
    host: str


class Memory(NamedTuple):
    """A VM's memory in bytes."""

    vmid: int
    nominal: int
    shared: int
    own: int


class Joined(NamedTuple):
    """How a clone ended: the status that it gave, -1 if it died without; what it left, or None."""

    vmid: int
    status: int
    file: Optional[bytes]
