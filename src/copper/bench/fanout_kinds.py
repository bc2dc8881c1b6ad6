"""What `copper bench fanout` measures: each kind with a unit and from where to where, and the figures to reach."""

from __future__ import annotations

import dataclasses

from copper.bench.series import Kind, Target
from copper.bench.targets import PAUSE

SIZES = (1, 2, 4, 8, 16, 32, 60, 128)
LOADS = ("idle", "busy")
IDENTITY = "identity, one clone"
CPU_NODE = "of that, Copper's own process"
OWN = "own memory of an idle clone"
ANON = "the same, RssAnon"
PRIVATE = "the same, smaps: private"
SHARE = "the same, smaps: share (Pss)"
TABLES = "the same, page tables"


@dataclasses.dataclass(frozen=True)
class Rows:
    """`sizes`: clones of one call, with idle and busy masters; `many` and `pairs`: of all else."""

    sizes: tuple[int, ...] = SIZES
    many: int = 60
    pairs: int = 16

    def last(self, count: int, load: str) -> str:
        return f"clone {count}, {load}: last answer"

    def pause(self, count: int, load: str) -> str:
        return f"clone {count}, {load}: pause"

    @property
    def returned(self) -> str:
        return f"clone {self.many}, idle: caller's return"

    @property
    def standbys(self) -> str:
        return f"clone {self.many}, standbys ready: last answer"

    @property
    def identity_many(self) -> str:
        return f"identity, each of {self.many}"

    @property
    def cpu(self) -> str:
        return f"processor time of a clone of {self.many}"

    @property
    def ended(self) -> str:
        return f"{self.many} ended"

    @property
    def again(self) -> str:
        return f"{self.many} grown right after: last answer"

    def mesh(self, count: int) -> str:
        return f"clone {count}: all ping all"

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The rows of the table."""
        return (*self._of_sizes(), *self._of_many(), *MEMORY)

    def _of_sizes(self) -> list[Kind]:
        found = []
        for load in LOADS:
            for count in self.sizes:
                means = (
                    f"from the line `gc clone {count}` being sent to a shell in the {load} master until the last clone"
                    " has answered a ping from the host's end of the virtual cluster's network; each is pinged as soon"
                    " as its host has written down that it is itself and its link is up, and then every 5 ms"
                )
                found.append(Kind(self.last(count, load), "ms", means))
        for load in LOADS:
            for count in self.sizes:
                found.append(Kind(self.pause(count, load), "ms", "the master stands still in it"))
        return found

    def _of_many(self) -> list[Kind]:
        many = self.many
        return [
            Kind(self.returned, "ms", "until what `gc` printed in the master has arrived"),
            Kind(
                self.standbys,
                "ms",
                f"as clone {many}, onto a ticket that was granted when everything was at rest, and all was at rest"
                " again: the processes that a ticket is promised wait; by a master that has forked once before",
            ),
            Kind(
                IDENTITY,
                "ms",
                "in a fork of one: from the session being opened, when its processors begin to run, until its agent"
                " says that it is itself: it wakes, reads, takes its identity, runs hooks, answers",
            ),
            Kind(
                self.identity_many,
                "ms",
                f"the same of each clone of {many}: as many as there are turns run at the same time, and share"
                " processors",
            ),
            Kind(
                self.cpu,
                "ms",
                "processor time of Copper's process and all its QEMUs, of the caller and standbys too, from before"
                f" `gc clone {many}` until the last answer, divided by the clones",
            ),
            Kind(CPU_NODE, "ms", "host agent and controller"),
            Kind(
                self.ended,
                "ms",
                "from `gc killall` being sent to the master's shell until it has returned and its host has no clone",
            ),
            Kind(self.again, "ms", f"as clone {many}, sent at that very instant"),
            *(
                Kind(
                    self.mesh(count),
                    "ms",
                    f"`gc clone {count}` and then, in the master and all clones, a program that pings all {count}"
                    " others; from that line being sent until the last machine has reported that all have answered it",
                )
                for count in sorted({self.pairs, many})
            ),
        ]

    @property
    def goals(self) -> tuple[Target, ...]:
        many, pairs = self.many, self.pairs
        return (
            Target(f"{many} clones: the last answers, p50", self.last(many, "idle"), 3000),
            Target(f"{many} clones, standbys ready: the last answers, p50", self.standbys, 2000),
            Target("identity adds to a clone, p50", IDENTITY, 60),
            Target(f"{pairs} clones: all ping all, p50", self.mesh(pairs), 1500),
            Target(f"{many + 1} machines: all ping all, p50", self.mesh(many), 5000),
            Target("own memory of an idle clone, p50", OWN, 15),
            *(
                Target(
                    f"pause of the caller in clone {count}, p50", self.pause(count, "idle"), PAUSE
                )
                for count in sorted({self.sizes[0], many, self.sizes[-1]})
            ),
        )

    @property
    def compared(self) -> dict[str, tuple[str, str]]:
        many, idle = self.many, self.last(self.many, "idle")
        return {
            f"{many} clones / 1 clone": (idle, self.last(1, "idle")),
            f"{many} clones, busy / idle": (self.last(many, "busy"), idle),
            f"{many} clones, standbys ready / not": (self.standbys, idle),
            f"pause of {many} / of 1": (self.pause(many, "idle"), self.pause(1, "idle")),
        }


MEMORY = (
    Kind(
        OWN,
        "MB",
        "anonymous pages of a clone's QEMU that no other process maps (pagemap, bit 56), one second after the last"
        " answer of the many: the median of them, a sample each round",
    ),
    Kind(ANON, "MB", "RssAnon and VmSwap, which count pages shared with siblings in each"),
    Kind(PRIVATE, "MB", "Private_Clean and Private_Dirty: with files' pages that nobody else maps"),
    Kind(SHARE, "MB", "Pss: each page divided by the number of processes that map it"),
    Kind(TABLES, "MB", "VmPTE"),
)
