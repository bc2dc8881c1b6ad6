"""What is measured: each kind with a name, a unit and one sentence that says from where to where."""

from __future__ import annotations

import dataclasses

from copper.bench.stats import Unit

PAUSE = "pause"
FREEZE_PAUSE = "freeze: pause"
STEPS = {
    "stop": "its processors are stopped",
    "devices": "their state is saved; 0 where clones are copies",
    "disk": "it steps aside",
    "memory": "it is written; 0 where that is done when the VM runs again",
    "seed": "its process is copied; 0 with KVM",
    "cont": "its processors go on",
}
NOT_ALWAYS = ("devices", "memory", "seed")
TRIP = "shell round trip"
REQUEST = "request alone"
CLONE_ANSWER = "clone 1: first answer"
CLONE_REQUEST = "clone 1: a request answered"
CLONE_RETURN = "clone 1: caller's return"
CLONES = 8
CLONES_ANSWER = f"clone {CLONES}: all answered"
CLONES_RETURN = f"clone {CLONES}: caller's return"
CLONES_PAUSE = f"clone {CLONES}: pause"
FORK_OF_FORK = "fork of a fork: first answer"
BOOT = "boot from the template"
OWN_IDLE = "own memory"
OWN_IDLE_SMAPS = "own memory, with files"
OWN_WORKED = "own memory, worked"
LAYER_IDLE = "layer of an idle clone"
LAYER_DEEP = "layer of an idle clone, generation 8"
COLD = "peer: cold boot"
LOADVM = "peer: qemu -loadvm"
COPY_ALL = "floor: copy all memory"
COPY_USED = "floor: copy used memory"
LOADVM_MANY = f"peer: {CLONES} times qemu -loadvm"
VIRSH_SAVE = "peer: virsh save"
VIRSH_RESTORE = "peer: virsh restore"
CRIU_DUMP = "peer: criu dump"
CRIU_RESTORE = "peer: criu restore"
DEEPEST = 8
PEERS = (COLD, LOADVM, COPY_ALL, COPY_USED)  # which every run has
ON_REQUEST = {
    "loadvm-many": (LOADVM_MANY,),
    "virsh": (VIRSH_SAVE, VIRSH_RESTORE),
    "criu": (CRIU_DUMP, CRIU_RESTORE),
}


def is_peer(kind: str) -> bool:
    """Not Copper's own: measured under no load, and missing where its programs are not there."""
    return kind in PEERS or any(kind in those for those in ON_REQUEST.values())


@dataclasses.dataclass(frozen=True)
class Kind:
    """One row of the table."""

    name: str
    unit: Unit
    means: str


def of_generation(number: int, what: str) -> str:
    """The kinds of a chain of forks: `what` is pause, thaw or first answer."""
    return f"generation {number}: {what}"


def generations() -> list[Kind]:
    """The rows of the chain of forks, which are a table of their own."""
    means = {
        "pause": "its parent stands still",
        "thaw": "from the host's order to thaw until the clone is ready",
        "first answer": "as clone 1",
    }
    return [
        Kind(of_generation(number, what), "ms", text)
        for what, text in means.items()
        for number in range(1, DEEPEST + 1)
    ]


def step(name: str) -> str:
    return f"freeze: {name}"


BUSY = (
    "busy: a process of the guest, started by exec before the fork, writes 8 MiB of random bytes into a file in memory"
    " and hashes them, again and again; it goes on in every clone"
)
WORK = "16 MiB of random bytes written to a file in memory, hashed, deleted"

KINDS = [
    Kind(PAUSE, "ms", "the master stands still during `gc clone 1`"),
    Kind(FREEZE_PAUSE, "ms", "the same for a freeze alone, ordered over the API; its steps follow"),
    *(Kind(step(name), "ms", f"of it, {name}: {what}") for name, what in STEPS.items()),
    Kind(
        TRIP,
        "ms",
        "not a fork: a line to a shell in the master, `gc vmid` there, its output back;"
        " all that follow contain one such trip",
    ),
    Kind(
        REQUEST,
        "ms",
        "not a fork: the request that clones are sent, to the master; opening its stream included",
    ),
    Kind(
        CLONE_ANSWER,
        "ms",
        "from the line `gc clone 1` being sent to a shell in the master until the clone's agent has answered over its"
        " own channel that it is now itself: randomness, clock, name and identity taken",
    ),
    Kind(
        CLONE_REQUEST,
        "ms",
        "from the same instant until the clone has answered a request besides, with its own vmid in it, that was sent"
        " when it had answered first",
    ),
    Kind(
        CLONE_RETURN,
        "ms",
        "from the same instant until what `gc` printed in the master has arrived",
    ),
    Kind(CLONES_PAUSE, "ms", f"the master stands still during `gc clone {CLONES}`"),
    Kind(
        CLONES_ANSWER, "ms", f"as clone 1, `gc clone {CLONES}`, the last of the requests answered"
    ),
    Kind(CLONES_RETURN, "ms", f"as clone 1, `gc clone {CLONES}`"),
    Kind(
        FORK_OF_FORK,
        "ms",
        "as clone 1, called in a clone; its master and itself run on beside it",
    ),
    Kind(
        BOOT,
        "ms",
        "from the API's order to boot a virtual cluster to its answer, which is that the master's agent has answered",
    ),
    Kind(
        OWN_IDLE,
        "MB",
        "anonymous and swapped memory of a clone's QEMU one second after its first answer",
    ),
    Kind(
        OWN_IDLE_SMAPS,
        "MB",
        "the same instant: Private_Dirty and Private_Clean, so with pages of programs and files that nobody else maps",
    ),
    Kind(OWN_WORKED, "MB", f"of the same clone after it was forked and worked: {WORK}"),
    Kind(
        LAYER_IDLE,
        "MB",
        "what a freeze of that clone stores, of which nothing was asked but who it is; before it worked",
    ),
    Kind(LAYER_DEEP, "MB", f"the same for a clone at generation {DEEPEST}"),
    Kind(COLD, "ms", "a new QEMU boots the same kernel and disk, up to the agent's first word"),
    Kind(
        LOADVM,
        "ms",
        "a new QEMU with -loadvm of the booted guest, ordinary memory, up to the agent's first answer, as clone 1",
    ),
    Kind(
        LOADVM_MANY,
        "ms",
        f"{CLONES} new QEMUs with -loadvm at once, each with a copy of the disk and its snapshot that was made before;"
        f" from the first one's start until the last of the requests is answered, as clone {CLONES}",
    ),
    Kind(
        VIRSH_SAVE,
        "ms",
        "from the command to a virsh that runs already, with libvirt's QEMU driver in it, until it says that the guest"
        " is stored; the guest stands still, and there is none afterwards",
    ),
    Kind(
        VIRSH_RESTORE,
        "ms",
        "from the command to such a virsh until the guest's agent has answered, as clone 1; of what was stored becomes"
        " one VM, the same one, and never several",
    ),
    Kind(
        CRIU_DUMP,
        "ms",
        "from criu's start until it has stored and ended a process that has as many random bytes as the guest's image",
    ),
    Kind(
        CRIU_RESTORE,
        "ms",
        "from criu's start until that process, brought back, has answered a signal; one process, the same one, and no"
        " machine",
    ),
    Kind(
        COPY_ALL,
        "ms",
        "as many bytes as the guest has memory, copied once, from and to memory that is there already",
    ),
    Kind(
        COPY_USED, "ms", "the same with as many bytes as its image holds, which has no empty pages"
    ),
]
