"""What a fake machine is: numbers that a real one would have in its process."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from copper.model.errors import CopperError, Refused
from copper.model.machine import Needs, Shape
from copper.model.networks import Exposure

if TYPE_CHECKING:
    from copper.fake.hypervisor import FakeMachine

NEEDS = Needs(qemu="0.0.0", machine="fake-1.0", accelerator="tcg", processor="fake")
LONGEST_STACK = 8  # layers above the lowest, as of real machines (copper.image.freeze)
FIRST_PID = 1 << 22  # no Linux gives a number as large to a process


class Layer:
    """Pages that machines and images share; they take memory while anybody has them."""

    __slots__ = ("bytes", "users")

    def __init__(self, size: int) -> None:
        self.bytes, self.users = size, 0


@dataclasses.dataclass(slots=True, eq=False)
class FakeImage:
    """A fake VM at one instant: what it shares with all that are thawed from it."""

    id: str
    shape: Shape
    layers: tuple[Layer, ...]

    @property
    def needs(self) -> Needs:
        return NEEDS


class FakeProcess:
    """A machine of a room. It outlives the host agent, as a QEMU does.

    `own` bytes and `ran_s` were counted when `since` was; None: its processors stand still.
    """

    __slots__ = (
        "exposure",
        "growth",
        "layers",
        "machine",
        "most_bytes",
        "name",
        "own",
        "pid",
        "ran_s",
        "reason",
        "shape",
        "since",
        "unit",
    )

    def __init__(self, pid: int, name: str, shape: Shape, layers: tuple[Layer, ...]) -> None:
        self.pid, self.unit, self.name = pid, str(pid), name
        self.shape, self.layers = shape, layers
        self.own, self.growth, self.most_bytes = 0.0, 0.0, shape.memory_bytes
        self.ran_s = 0.0
        self.since: float | None = None
        self.reason: str | None = None  # why it ended
        self.exposure: Exposure | None = None  # what is in force; it ends with the machine
        self.machine: FakeMachine | None = None  # in whose hands it is

    def count(self, now: float) -> None:
        """Brings what it has used up to date."""
        if self.since is not None:
            passed = max(0.0, now - self.since)
            self.ran_s += passed
            self.own = min(self.own + passed * self.growth, float(self.most_bytes))
            self.since = now

    def check(self) -> None:
        """Raises CopperError when it has ended."""
        if self.reason is not None:
            raise CopperError(f"fake machine {self.unit} ended: {self.reason}")


def refused(what: str) -> CopperError:
    """A fake machine has none of this."""
    return Refused(f"a fake machine has no {what}", advice="copper up without --fake has real ones")
