"""What an audit compares and what it says."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from copper.model.api import VmState
from copper.model.machine import Record

Thing = Literal[
    "vm", "process", "tap", "namespace", "overlay", "memory-file", "cgroup", "socket", "record",
    "suspended", "ticket", "image", "lease", "exposure", "resolver",
]  # fmt: skip


class Found(Record):
    """One thing on a host, and the VM or virtual cluster that it is for, as far as it says so itself.

    Every VM that the agent looks after has one process and a record. What the agent holds for no VM is `(standby)`'s,
    `(template)`'s, `(frozen)`'s or `(agent)`'s. A namespace, the resolver in it, and what is stored of a
    suspended virtual cluster, are that virtual cluster's. A tap's `detail` says what keeps
    its VM off the wire. An image's `name` is the stored image's.
    """

    thing: Thing
    name: str = Field(description="a path, a process's number, a VM's name")
    vm: str = Field(
        default="",
        description="whose it is: a VM, a virtual cluster, or a word in parentheses; empty: nobody's",
    )
    detail: str = ""


class Inventory(Record):
    """All that a host has of Copper's, read from the system and not from what the agent remembers."""

    host: str
    vms: dict[str, VmState] = Field(description="the VMs that the agent looks after")
    found: list[Found]


class Difference(Record):
    """One way in which state and hosts do not agree."""

    thing: Thing
    name: str
    host: str = ""
    says: str = Field(description="one line: what is there and what should be")
    mend: str = Field(default="", description="what --repair does; empty: nothing is safe to do")
    mended: bool = False
