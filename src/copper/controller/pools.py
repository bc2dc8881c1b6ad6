"""Pools of addresses: what an administrator wrote, as ranges, and which of them are free. Pure."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from copper.model.errors import BadInput

MOST = 1 << 32  # a larger pool of IPv6 is no larger to anybody
# Addresses inside every virtual cluster (copper.net.addresses): a guest would look for them there.
INSIDE = (ipaddress.ip_network("10.0.0.0/16"), ipaddress.ip_network("fd00:c::/64"))
_KINDS = ("is_loopback", "is_multicast", "is_link_local", "is_unspecified")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Range(NamedTuple):
    """Addresses of one version, both ends included."""

    version: int
    first: int
    last: int

    @property
    def text(self) -> str:
        first, last = address_of(self.version, self.first), address_of(self.version, self.last)
        return str(first) if first == last else f"{first}-{last}"


def address_of(version: int, number: int) -> Address:
    return ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number)


def parse_pool(texts: Sequence[str]) -> list[Range]:
    """Ranges, prefixes and addresses as ranges in order, neighbours joined. Raises BadInput.

    Of a prefix that has more than two addresses the first is not given out, nor the last of IPv4: they mean the
    network itself, and all of it.
    """
    found = sorted(_parse(text) for text in texts)
    for one, following in itertools.pairwise(found):
        if one.version == following.version and following.first <= one.last:
            raise BadInput(f"pool: {one.text} and {following.text} have addresses in common")
    joined: list[Range] = []
    for one in found:
        if joined and (joined[-1].version, joined[-1].last + 1) == (one.version, one.first):
            joined[-1] = joined[-1]._replace(last=one.last)
        else:
            joined.append(one)
    return joined


def _parse(text: str) -> Range:
    try:
        one = _range(text.strip())
    except ValueError:
        raise BadInput(
            f"pool {text[:80]!r}",
            advice="expected FIRST-LAST, PREFIX/LENGTH or an address, such as"
            " 198.51.100.10-198.51.100.40 or 198.51.100.0/28",
        ) from None
    ends = [address_of(one.version, number) for number in (one.first, one.last)]
    for kind in _KINDS:
        if any(getattr(end, kind) for end in ends):
            what = kind.removeprefix("is_").replace("_", "-")
            raise BadInput(f"pool {text[:80]!r}: {what} addresses reach nobody from outside")
    for inside in INSIDE:
        if inside.version == one.version and _overlap(one, _of(inside)):
            raise BadInput(
                f"pool {text[:80]!r}: {inside} is the private network of virtual clusters"
            )
    return one


def _range(text: str) -> Range:
    first, dash, last = text.partition("-")
    if dash:
        ends = ipaddress.ip_address(first.strip()), ipaddress.ip_address(last.strip())
        if ends[0].version != ends[1].version or int(ends[0]) > int(ends[1]) or "%" in text:
            raise ValueError(text)
        return Range(ends[0].version, int(ends[0]), int(ends[1]))
    if "%" in text:
        raise ValueError(text)
    network = ipaddress.ip_network(text)
    found = _of(network)
    if network.num_addresses <= 2:
        return found
    return found._replace(first=found.first + 1, last=found.last - (1 if found.version == 4 else 0))


def _of(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> Range:
    ends = int(network.network_address), int(network.broadcast_address)
    return Range(network.version, *ends)


def _overlap(one: Range, other: Range) -> bool:
    same = one.version == other.version
    return same and one.first <= other.last and other.first <= one.last


def in_common(some: Iterable[Range], others: Sequence[Range]) -> Range | None:
    """One of `some` that has addresses in common with one of `others`."""
    return next((one for one in some if any(_overlap(one, other) for other in others)), None)


class _Family:
    """The addresses of one version."""

    def __init__(self, version: int, ranges: Sequence[Range]) -> None:
        self.version = version
        self.ranges = ranges
        self.size = sum(one.last - one.first + 1 for one in ranges)
        self.taken: set[int] = set()
        self._next = 0  # one that was given back comes again as late as can be

    def has(self, address: Address) -> bool:
        same = address.version == self.version
        return same and any(one.first <= int(address) <= one.last for one in self.ranges)

    def pick(self, count: int) -> list[Address]:
        """So many that are free; there must be as many."""
        found: list[Address] = []
        for _ in range(self.size):
            if len(found) == count:
                break
            number = self._at(self._next)
            self._next = (self._next + 1) % self.size
            if number not in self.taken:
                found.append(address_of(self.version, number))
        return found

    def _at(self, place: int) -> int:
        for one in self.ranges:
            length = one.last - one.first + 1
            if place < length:
                return one.first + place
            place -= length
        raise IndexError(place)


class Pool:
    """Which addresses of a network are free. A VM gets one of each version that the pool has."""

    def __init__(self, texts: Sequence[str]) -> None:
        ranges = parse_pool(texts)
        self.ranges = ranges
        self._families = [
            _Family(version, [one for one in ranges if one.version == version])
            for version in sorted({one.version for one in ranges})
        ]

    @property
    def size(self) -> int:
        """How many VMs it has addresses for."""
        return min(MOST, *(family.size for family in self._families))

    @property
    def free(self) -> int:
        """How many VMs could have addresses now."""
        return min(MOST, *(family.size - len(family.taken) for family in self._families))

    def __contains__(self, address: str) -> bool:
        return any(family.has(ipaddress.ip_address(address)) for family in self._families)

    def take(self, address: str) -> None:
        """It is somebody's; one that is not of this pool changes nothing."""
        self._family(address).add(int(ipaddress.ip_address(address)))

    def give_back(self, address: str) -> None:
        self._family(address).discard(int(ipaddress.ip_address(address)))

    def _family(self, address: str) -> set[int]:
        parsed = ipaddress.ip_address(address)
        found = (family.taken for family in self._families if family.has(parsed))
        return next(found, set())

    def pick(self, vms: int) -> list[list[str]]:
        """Addresses for so many VMs, one of each version for each; `free` must allow it."""
        picked = [family.pick(vms) for family in self._families]
        return [[str(address) for address in of_one] for of_one in zip(*picked, strict=True)]
