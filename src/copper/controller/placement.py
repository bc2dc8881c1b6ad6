"""Where VMs go: a pure function of what hosts have and what is asked."""

from __future__ import annotations

import collections
import dataclasses
import heapq
from collections.abc import Iterable, Sequence

from copper.model.api import HostFacts, Requirements, Strategy
from copper.model.errors import NoRoom


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """What one host can still take. Processors are virtual ones, memory is in bytes."""

    facts: HostFacts
    cpus: int
    memory: int
    cpus_held: int = 0

    @property
    def name(self) -> str:
        return self.facts.name


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """So many equal VMs, `least` of them at any rate.

    `near`: the host whose VM is forked. A host that cannot fetch another's image takes no fork of it.
    """

    vms: int
    least: int
    cpus: int
    memory: int
    strategy: Strategy = "near"
    near: str = ""
    requires: Requirements = dataclasses.field(default_factory=Requirements)


def fits(room: Room, wish: Wish) -> int:
    """How many of the wish's VMs a host takes."""
    memory = room.memory // wish.memory if wish.memory else wish.vms
    return max(0, min(room.cpus // wish.cpus, memory, wish.vms))


def missing(facts: HostFacts, wish: Wish) -> str:
    """What of the requirements a host does not have, in words; empty: it has all."""
    if wish.near and facts.name != wish.near and not facts.fetches:
        return "cannot fetch another's images"
    for what in ("tags", "networks", "storage"):
        lacks = set(getattr(wish.requires, what)) - set(getattr(facts, what))
        if lacks:
            kind = {"tags": "tag", "networks": "network", "storage": "storage"}[what]
            return f"no {kind} {', '.join(sorted(lacks))}"
    return ""


def ever(rooms: Iterable[Room], wish: Wish) -> int:
    """How many of the wish's VMs these hosts would take if they were empty."""
    able = [room.facts for room in rooms if not missing(room.facts, wish)]
    return sum(
        fits(Room(facts, int(facts.cpus * facts.cpu_ratio), facts.memory_bytes), wish)
        for facts in able
    )


def place(rooms: Iterable[Room], wish: Wish) -> dict[str, int]:
    """How many VMs go to which host: as many as fit, up to `vms`. Raises NoRoom below `least`, and says why.

    `near`: the parent's host first, then the fullest that still take some. `pack`: as few hosts as can be.
    `spread`: as even as can be.
    """
    free: list[tuple[int, Room]] = []
    refused: dict[str, list[str]] = {}
    for room in rooms:
        why = missing(room.facts, wish)
        if why:
            refused.setdefault(why, []).append(room.name)
        elif takes := fits(room, wish):
            free.append((takes, room))
        else:
            refused.setdefault(_short_of(room, wish), []).append(room.name)
    if sum(takes for takes, _ in free) < wish.least:
        raise NoRoom(_no_room(free, refused, wish), advice=_advice(refused))
    if wish.strategy == "spread":
        return _spread(free, wish)
    # the fullest first; where that is equal the one that takes most, so that fewer hosts are used
    free.sort(key=lambda one: (one[1].name != wish.near, -one[1].cpus_held, -one[0], one[1].name))
    if wish.strategy == "pack":
        whole = [one for one in free if one[0] >= wish.vms]
        free = (whole or sorted(free, key=lambda one: -one[0])) if wish.vms else []
    places: dict[str, int] = {}
    left = wish.vms
    for takes, room in free:
        if left == 0:
            break
        places[room.name] = min(takes, left)
        left -= places[room.name]
    return places


def _spread(free: Sequence[tuple[int, Room]], wish: Wish) -> dict[str, int]:
    """One after the other to the host that has the least processors given out for each of its own."""
    places: collections.Counter[str] = collections.Counter()
    heap = [(room.cpus_held / max(1, room.facts.cpus), room.name, takes) for takes, room in free]
    steps = {room.name: wish.cpus / max(1, room.facts.cpus) for _, room in free}
    vms = wish.vms
    heapq.heapify(heap)
    while vms and heap:
        load, name, takes = heapq.heappop(heap)
        places[name] += 1
        vms -= 1
        if takes > 1:
            heapq.heappush(heap, (load + steps[name], name, takes - 1))
    return dict(places)


def _short_of(room: Room, wish: Wish) -> str:
    return "no processors left" if room.cpus < wish.cpus else "no memory left"


def _no_room(free: Sequence[tuple[int, Room]], refused: dict[str, list[str]], wish: Wish) -> str:
    takes = sum(count for count, _ in free)
    each = f"{wish.cpus} processor{'' if wish.cpus == 1 else 's'}, {wish.memory >> 20} MiB"
    text = f"there is room for {takes}, not for {wish.least} ({each} each)"
    why = [
        f"{names[0] if len(names) == 1 else f'{len(names)} hosts'}: {reason}"
        for reason, names in sorted(refused.items(), key=lambda one: -len(one[1]))[:3]
    ]
    if free and not why:
        room = max(free, key=lambda one: one[0])[1]
        why = [f"{room.name} has {room.cpus} processors and {room.memory >> 20} MiB left"]
    return f"{text}: {'; '.join(why) or 'no host answers'}"


def _advice(refused: dict[str, list[str]]) -> str:
    if "no processors left" in refused:
        return "end VMs, or raise COPPER_CPU_RATIO"
    return "end VMs, or ask for fewer"
