"""A VM that can be frozen: a QEMU process, the layers below its memory, the chain below its disk."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
from pathlib import Path

from copper.image.layers import Layer, close_all
from copper.model.errors import CopperError, Damaged
from copper.model.machine import Needs, Shape
from copper.vmm.layers import layer_of
from copper.vmm.process import QemuProcess
from copper.vmm.seed import Seed

# of all that is kept with a device state, which fits the devices that it was saved of: 1 had no network card
FORMAT = 2


def node_of(disk: Path) -> str:
    """QEMU's name for a disk file: derived, so that a new host agent knows it too."""
    return f"d{disk.stem}"


@dataclasses.dataclass
class Image:
    """A VM at one instant, in this host's memory. It never changes; `close` lets go of it.

    `disks` is the chain below every VM that is thawed from it, the image's own disk first. With a `seed` a VM is
    made of it by copying a process, else by loading its state into one; with a seed the state may be empty.
    """

    id: str
    shape: Shape
    needs: Needs
    layers: list[Layer]
    state: bytes
    state_sha256: str
    disks: tuple[Path, ...]
    seed: Seed | None = None
    unused: tuple[str, ...] = ()  # QEMU's nodes in the seed that are the frozen VM's alone

    def check_state(self) -> None:
        """QEMU loads damaged device state without complaint: so this is asked before every thaw.

        Raises Damaged, or CopperError where there is none.
        """
        if not self.state:
            raise CopperError(f"image {self.id} has no device state", advice="try again")
        if hashlib.sha256(self.state).hexdigest() != self.state_sha256:
            raise Damaged(f"the device state of image {self.id} is not what was written")

    def close(self) -> None:
        close_all(self.layers)
        self.layers = []
        self.let_go_of_seed()

    def let_go_of_seed(self) -> None:
        """From now on VMs are made of it by loading its state."""
        if self.seed is not None:
            self.seed.close()
            self.seed = None


@dataclasses.dataclass
class Machine:
    """A running VM. `disks` is its chain, the file that it writes to last."""

    process: QemuProcess
    layers: list[Layer]
    disks: tuple[Path, ...]
    spare: Path | None = None  # the overlay that the next freeze may step aside to, already open
    ahead_in_vain: bool = False  # its disk was put aside before the last pause, and again in it
    shortening: asyncio.Task[None] | None = None
    turn: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)

    async def end(self) -> None:
        """Ends the VM and gives back what it had, but for disks that others may stand on."""
        if self.shortening is not None:
            self.shortening.cancel()
            await asyncio.gather(self.shortening, return_exceptions=True)
        await self.process.end()
        close_all(self.layers)
        self.layers = []
        if self.spare is not None:
            self.spare.unlink(missing_ok=True)
            self.spare = None

    async def leave(self) -> None:
        """Lets go of the VM, which runs on."""
        if self.shortening is not None:
            self.shortening.cancel()
            await asyncio.gather(self.shortening, return_exceptions=True)
        await self.process.leave()
        close_all(self.layers)
        self.layers = []


def layers_of(pid: int) -> list[Layer]:
    """The layers that a running QEMU keeps, lowest first: how a new host agent finds them again."""
    folder = Path(f"/proc/{pid}/fd")
    found: dict[int, str] = {}
    for entry in folder.iterdir():
        try:
            layer = layer_of(str(entry.readlink()))
        except FileNotFoundError:
            continue
        if layer:
            found[int(entry.name)] = layer
    # a layer's id begins with its place in time (image.freeze), and a later one never lies below an earlier one
    ordered = sorted(found, key=lambda number: found[number])
    layers: list[Layer] = []
    try:
        for number in ordered:
            fd = os.open(folder / str(number), os.O_RDONLY | os.O_CLOEXEC)
            try:
                layers.append(Layer(found[number], fd))
            except BaseException:
                os.close(fd)
                raise
    except BaseException:
        close_all(layers)
        raise
    return layers
