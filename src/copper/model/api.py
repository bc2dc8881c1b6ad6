"""What controller, host agents and commands say to each other: the bodies of the API."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from copper.model.machine import Asked, Identity, Needs, Record, Shape
from copper.model.networks import Attachment, Exposure
from copper.model.ssh import LoginKey

VmState = Literal["starting", "running", "paused", "suspended", "ending", "dead"]
ClusterState = Literal["defined", "running", "paused", "suspended"]
Event = Literal["boot", "clone", "adopt", "resume"]
MemoryClass = Literal["guaranteed", "shared"]
Strategy = Literal["near", "pack", "spread"]


class Problem(Record):
    """An error as RFC 9457 has it; `code` is stable, `exit_status` and `errno` follow from it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    advice: str = ""


class Limits(Asked):
    """Most that a virtual cluster may have at once, live or promised; None is no limit of its own."""

    vms: int | None = Field(default=None, ge=1, le=1 << 20)
    cpus: int | None = Field(
        default=None, ge=1, le=1 << 20, description="processors of all its VMs"
    )
    memory_mib: int | None = Field(
        default=None, ge=1, le=1 << 30, description="memory of all its VMs, as reserved"
    )


class VmLimits(Asked):
    """What a host holds a VM to, live."""

    cpus: float | None = Field(
        default=None, gt=0, description="processors' time, 1.5 is one and a half"
    )
    own_bytes: int | None = Field(default=None, ge=1 << 20, description="memory of its own at most")


class Requirements(Asked):
    """What a host must have for the VMs of a virtual cluster."""

    tags: list[str] = Field(default=[])
    networks: list[str] = Field(default=[])
    storage: list[str] = Field(default=[])


class NewCluster(Asked):
    """A virtual cluster to be made. What is not given follows the image."""

    name: str
    image: str
    memory_mib: int | None = None
    cpus: int | None = None
    memory_class: MemoryClass = "shared"
    placement: Strategy = "near"
    requires: Requirements = Requirements()
    limits: Limits = Limits()
    networks: list[Attachment] = Field(
        default=[], max_length=16, description="public networks that its VMs have addresses in"
    )
    egress: str | None = Field(
        default=None,
        max_length=4096,
        description="open, none, or prefixes with commas; without: open if it has a network",
    )
    owner: str | None = Field(
        default=None, description="whose it is; only an admin may name another"
    )


class Cluster(Record):
    """A virtual cluster: one master VM and all that was forked from it."""

    name: str
    image: str
    shape: Shape
    state: ClusterState
    owner: str = "root"
    memory_class: MemoryClass = "shared"
    placement: Strategy = "near"
    requires: Requirements = Requirements()
    limits: Limits = Limits()
    vm_limits: VmLimits = VmLimits()
    networks: list[Attachment] = Field(default=[])
    egress: str = Field(default="none", description="open, none, or prefixes with commas")
    vms: int = Field(description="live VMs")
    next_vmid: int = Field(description="the vmid that the next clone gets; none is used twice")
    created: float = Field(description="seconds since 1970")


class Vm(Record):
    """A VM as the controller knows it."""

    name: str
    cluster: str
    vmid: int
    ip: str = Field(description="its address on the private network")
    ip6: str = ""
    generation: int
    parent: int | None
    lineage: list[int] = Field(default=[], description="its parent and all above, the oldest first")
    ticket: str = Field(default="", description="what it was created on")
    state: VmState
    host: str
    created: float
    reason: str = Field(default="", description="why it ended, when it did on its own")
    owner: str = "root"
    cpus: int = 1
    memory_mib: int = 0
    reserved_bytes: int = Field(default=0, description="memory that is kept for it on its host")
    public: list[str] = Field(default=[], description="its addresses in public networks")
    ssh_host_key: str = Field(
        default="", description='as in known_hosts, "ssh-ed25519 AAAA…"; empty where it made none'
    )


class VmStatus(Record):
    """A VM as its host knows it. Bytes; `own_bytes` is what ending it gives back."""

    name: str
    identity: Identity
    shape: Shape
    needs: Needs
    state: VmState
    pid: int
    template: str = Field(description="the stored image that it descends from")
    own_bytes: int
    shared_bytes: int = Field(
        description="layers below its memory, held once for all who share them"
    )
    layers: int
    disks: int = Field(description="files in its disk's chain")
    ready_ms: float = Field(description="from the order to the guest's word that it is ready")
    last_pause_ms: float | None = Field(description="how long its last freeze stopped it")
    reason: str = Field(default="", description="why it is paused, when nobody asked for it")
    exposure: Exposure | None = Field(
        default=None, description="how the world reaches it; None: not at all, and no way out"
    )
    ssh_host_key: str = Field(default="", description="that its guest made, as in known_hosts")


class ThawOrder(Record):
    """Make a VM of an image: of a stored one by name, or of one that was just frozen, by its id."""

    identity: Identity
    template: str | None = None
    frozen: str | None = None
    event: Event = "boot"
    call: int | None = Field(default=None, description="the guest's call that this clone answers")
    source: str = Field(default="", description="the host that froze it, when it is another")
    reserved_bytes: int = Field(default=0, description="memory that is kept for it")
    limits: VmLimits = VmLimits()
    exposure: Exposure | None = Field(
        default=None, description="to be in force before its link is up; None: nothing"
    )
    login_key: LoginKey | None = Field(
        default=None, description="handed to a guest that boots, of an image with ssh"
    )


class Frozen(Record):
    """An image that a host holds in memory until it is released."""

    image: str
    pause_ms: float
    freeze_ms: float = Field(description="from the order to the image, copying ahead included")
    pages: int
    layer_bytes: int
    steps: dict[str, float] = Field(description="milliseconds of the pause, by step")


class StandbyOrder(Record):
    """Have so many processes ready for clones of this VM."""

    vm: str
    count: int = Field(ge=0, le=1024)


class GuestCall(Record):
    """What a program in a guest asked for. Which VM speaks is known by its socket."""

    vm: str
    call: int
    verb: str
    args: dict[str, Any]
    uid: int = 0


class VmEnded(Record):
    """A VM ended without having been told to."""

    vm: str
    reason: str


class VmUse(Record):
    """What one VM has used since it began, and holds now: the counters only grow."""

    name: str
    cluster: str
    nominal_bytes: int
    shared_bytes: int
    own_bytes: int
    cpu_s: float
    disk_read_bytes: int = 0
    disk_written_bytes: int = 0
    net_received_bytes: int = 0
    net_sent_bytes: int = 0
    process: str = Field(
        default="", description="which process of it: another one's counters began at 0"
    )


class HostReport(Record):
    """A host and its VMs, measured at one moment."""

    facts: HostFacts
    vms: list[VmUse]
    ended: list[VmUse] = Field(
        default=[], description="VMs that ended in the last minute, with their last counters"
    )


class HostFacts(Record):
    """A host: what it has, and what of it is in use. Memory in bytes."""

    name: str
    cpus: int
    memory_bytes: int
    free_bytes: int
    disk_bytes: int
    disk_free_bytes: int
    accelerator: str
    accelerator_reason: str
    qemu: str
    machine: str
    vms: int
    standbys: int
    cpu_ratio: float = Field(default=4, description="virtual processors for each real one")
    tags: list[str] = Field(default=[])
    networks: list[str] = Field(default=[])
    storage: list[str] = Field(default=[])
    fetches: bool = Field(default=False, description="whether it can thaw what another host froze")


class ImageInfo(Record):
    """A stored image, as `copper image list` shows it."""

    name: str
    recipe: str
    created: float
    memory_mib: int
    cpus: int
    disk_bytes: int
    stored_bytes: int
    accelerator: str
    users: list[str] = Field(description="virtual clusters that stand on it")
    ssh: bool = Field(
        default=False, description="whether its VMs take SSH logins of their virtual cluster"
    )


class Health(Record):
    """That a Copper serves here, and which."""

    version: str
    pid: int
    host: str
    accelerator: str
    accelerator_reason: str
    accelerator_proven: bool = Field(default=True, description="whether a guest has shown it")
    state_dir: str
    dns: str = Field(default="", description="where names are answered, empty where they are not")
    dns_reason: str = Field(default="", description="why they are not")
