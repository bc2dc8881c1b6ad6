"""The seam between a host agent and what runs its machines: QEMU (host/qemu.py), or none (copper/fake).

A `Hypervisor` is one host's. It makes a `Machine` of an `Image`, or finds one again; a machine outlives the
hypervisor object that made it. What is common to all of them is in host/vms.py.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from copper.host.records import VmRecord
from copper.host.streams import PulledFile, Stream
from copper.image.freeze import Pause
from copper.image.suspended import SuspendedVm
from copper.model.api import ImageInfo, VmLimits
from copper.model.audit import Found
from copper.model.machine import Identity, Needs, Shape
from copper.model.networks import Exposure
from copper.vmm.capabilities import Verdict
from copper.wire.messages import Ready


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """What a host has. Bytes; `free_bytes` is what images and VMs may take now."""

    cpus: int
    memory_bytes: int
    free_bytes: int
    disk_bytes: int
    disk_free_bytes: int
    available_bytes: int | None = None  # memory that nobody uses; None: it cannot run out
    swap_free_bytes: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Used:
    """What a machine has used since it began; the counters only grow. `own_bytes` is what it holds now."""

    own_bytes: int
    cpu_s: float
    disk_read_bytes: int
    disk_written_bytes: int


class Image(Protocol):
    """A VM at one instant, in a host's memory."""

    @property
    def id(self) -> str: ...

    @property
    def shape(self) -> Shape: ...

    @property
    def needs(self) -> Needs: ...


class Listener(Protocol):
    """Who is told what machines do on their own, by the name of the VM."""

    async def called(self, name: str, verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
        """A program in the guest calls: the answer, or a CopperError, is what it gets."""

    def said_hello(self, name: str) -> None:
        """The guest's agent was started again: it has no session."""

    def ended(self, machine: Machine, reason: str) -> None:
        """It ended without having been told to. Only a machine that is watched tells."""


class Guest(Protocol):
    """The session with a guest's agent; errors and arguments as of `GuestPort`."""

    async def begin(
        self,
        identity: Mapping[str, Any],
        event: str,
        call: int | None = None,
        *,
        hosts: str = "",
        deadline: float,
    ) -> Ready:
        """What the guest says when its identity is its own. Raises TimedOut, CopperError."""

    def tell_hosts(self, lines: str, prefix: int) -> bool:
        """The names of the other VMs are these now; False when there is no session: the next one says it."""

    async def exec(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        tty: Mapping[str, Any] | None = None,
    ) -> Stream:
        """A command that runs in the guest."""

    async def push(
        self,
        path: str,
        source: bytes | AsyncIterable[bytes],
        *,
        name: str = "",
        mode: int = 0o644,
        mtime_ns: int | None = None,
    ) -> str:
        """A file into the guest; its path there."""

    async def pull(self, path: str) -> PulledFile:
        """A file out of the guest."""


class Line(Protocol):
    """A machine's serial line."""

    def attach(self) -> AbstractContextManager[AsyncIterator[bytes]]:
        """What was shown lately, then what comes."""

    async def write(self, data: bytes) -> None:
        """Types on it. Raises OSError when the machine is gone."""


class Machine(Protocol):
    """One running VM with its guest's session."""

    @property
    def name(self) -> str:
        """The VM's."""

    @property
    def unit(self) -> str:
        """What `adopt` finds it by."""

    @property
    def pid(self) -> int: ...

    @property
    def shape(self) -> Shape: ...

    @property
    def needs(self) -> Needs: ...

    @property
    def disks(self) -> tuple[Path, ...]:
        """Its chain, the file that it writes to last."""

    @property
    def forks_by_copy(self) -> bool:
        """Whether clones of it are copies of its process, so that none needs to stand by for them."""

    @property
    def layers(self) -> int:
        """How many lie below its memory."""

    @property
    def shared_bytes(self) -> int:
        """Of these layers."""

    @property
    def guest(self) -> Guest: ...

    @property
    def console(self) -> Line: ...

    @property
    def has_network(self) -> bool:
        """Whether its guest has a network card."""

    async def link_up(self) -> None:
        """Puts it on its private network: what it sent before has reached nobody. Raises CopperError."""

    async def connect(self, port: int) -> socket.socket:
        """A TCP connection to a port of its private address, the caller's. Raises OSError, TimedOut, CopperError."""

    async def expose(self, exposure: Exposure) -> None:
        """From now on the world reaches it, and it reaches the world, as `exposure` says and in no other way.

        Nothing is let through before the first call, nor after its end. In force on return; the same again changes
        nothing; an adopted machine has what it had. Raises Refused, CopperError: then it is as it was.
        """

    def log(self) -> bytes:
        """What is kept of its serial line; reads files."""

    def used(self) -> Used:
        """What the kernel counts: 0.1 ms. After its end, what was counted last."""

    def own_bytes(self) -> int:
        """Memory that ending it gives back."""

    def page_out(self) -> None:
        """Has what it wrote stored in the host's swap, but for what others have too; takes a while. Raises OSError."""

    async def run(self) -> None:
        """Starts the processors."""

    async def pause(self) -> None:
        """Stops the processors until `run`; ends `hold`."""

    def hold(self) -> None:
        """Stops all of it at once, as it is, until `go_on` or `pause`: nothing of it answers. From any thread."""

    def go_on(self) -> None:
        """Ends `hold`."""

    async def freeze(self, *, run_on: bool = True) -> tuple[Image, Pause]:
        """An image, the caller's to `discard`. With `run_on` false the machine stays stopped, to be ended.

        Raises NoRoom or CopperError; it runs on then as it was, or stays stopped with `run_on` false.
        """

    def limit(self, limits: VmLimits) -> None:
        """Holds it to these from now on. Raises Refused, nothing changed."""

    def watch(self) -> None:
        """From now on the listener is told when it ends on its own, also when it has already."""

    async def end(self) -> None:
        """Ends it and removes all that is its alone: memory, disks and log are free on return."""

    async def leave(self) -> None:
        """Lets go of it; it runs on."""


class Hypervisor(Protocol):
    """What one host runs machines with."""

    @property
    def verdict(self) -> Verdict:
        """Which accelerator is used, read anew: the first image that is built decides it."""

    @property
    def version(self) -> str: ...

    @property
    def machine(self) -> str:
        """The machine type that new images are for."""

    def room(self) -> Room:
        """What the host has now."""

    def available_bytes(self) -> int | None:
        """As in `room`, from any thread."""

    def images(self) -> list[ImageInfo]:
        """Stored images, without their users; reads files. A damaged one is listed as such."""

    async def template(self, name: str) -> Image:
        """A stored image in memory: loaded and checked once. Raises NotFound, Damaged, Foreign."""

    async def delete_image(self, name: str) -> None:
        """Deletes a stored image and what stands by for it. Raises NotFound."""

    def discard(self, image: Image) -> None:
        """Lets go of a frozen image: its memory and disks go with the last machine that stands on it."""

    async def thaw(self, image: Image, identity: Identity, listener: Listener) -> Machine:
        """A machine of this image, its channel connected and its processors stopped: `run` starts them.

        Raises Damaged, NoRoom or CopperError; nothing is left then.
        """

    def suspended(self) -> dict[str, dict[str, int]]:
        """The suspended virtual clusters that are stored here: bytes on disk by VM."""

    async def store_cluster(
        self, cluster: str, frozen: Sequence[tuple[SuspendedVm, Image]]
    ) -> None:
        """Keeps frozen VMs over the host's end, whole or not at all. Raises NoRoom, CopperError.

        From then on these VMs are suspended: a hypervisor that begins anew ends what runs of them.
        """

    async def load_cluster(self, cluster: str) -> list[tuple[SuspendedVm, Image]]:
        """What was stored, as images that are the caller's to `discard`. Raises NotFound, Damaged, Foreign."""

    async def forget_cluster(self, cluster: str) -> None:
        """Removes what was stored, if anything was."""

    async def adopt(self, record: VmRecord, listener: Listener) -> Machine:
        """Finds a running machine again. Raises NotFound when it has ended; nothing of it is left then."""

    async def clear(self, known: set[str]) -> None:
        """Ends machines that are none of the known units, and removes what nobody uses."""

    async def found(self) -> list[Found]:
        """All that the host has of this Copper's, read from the system."""

    async def mend(self, thing: str, name: str) -> None:
        """Removes a thing that `found` says, if nobody uses it. Raises BadInput, Refused."""

    @property
    def standbys(self) -> int:
        """How many wait."""

    def prepare(self, shape: Shape, needs: Needs, count: int) -> None:
        """Sees to it that so many stand by for this shape, or are on their way."""

    async def drop_standbys(self) -> None:
        """Ends those that wait: no machine is left that could fork."""

    async def close(self) -> None:
        """The host agent ends: standbys end, images in memory are let go, machines run on."""
