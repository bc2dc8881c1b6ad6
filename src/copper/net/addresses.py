"""The addresses of a virtual cluster's VMs: a function of the vmid alone, the same in every virtual cluster.

VM 0 has 10.0.0.1 and fd00:c::1. Numbers count on from there and leave out 10.0.0.254, which is the host's, and
10.0.0.255.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any

GATEWAY = "10.0.0.254"  # the host's end of the bridge, of every virtual cluster
GATEWAY6 = "fd00:c::fffe:254"
PREFIX = 24  # bits; wider where a virtual cluster needs it
WIDEST = 8
PREFIX6 = 64
DEVICE = "eth0"
MOST = 1 << 24  # vmids: three bytes of a MAC

_FIRST = ipaddress.IPv4Address("10.0.0.0")
_FIRST6 = ipaddress.IPv6Address("fd00:c::")
_HOSTS = 254  # this number and the next are no VM's


def number_of(vmid: int) -> int:
    """What is added to the first address of the network. Raises ValueError for what is no vmid."""
    if not 0 <= vmid < MOST - 4:
        raise ValueError(f"vmid {vmid} has no address")
    return vmid + 1 if vmid + 1 < _HOSTS else vmid + 3


def mac_of(vmid: int) -> str:
    """Such as 52:54:00:00:00:03: QEMU's own prefix, then the vmid."""
    return "52:54:00:" + vmid.to_bytes(3, "big").hex(":")


def ipv4_of(vmid: int) -> str:
    """Such as 10.0.0.4."""
    return str(_FIRST + number_of(vmid))


def ipv6_of(vmid: int) -> str:
    """Such as fd00:c::4."""
    return str(_FIRST6 + number_of(vmid))


def link_local_of(vmid: int) -> str:
    """What a kernel makes of the MAC, such as fe80::5054:ff:fe00:3 (RFC 4291, appendix A)."""
    mac = bytes.fromhex(mac_of(vmid).replace(":", ""))
    inner = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + inner))


def place_of(
    vmid: int, prefix: int, domain: str = "", public: Sequence[str] = ()
) -> dict[str, Any]:
    """What a guest is told of its place on the network: `identity.net` (docs/reference/protocol.md).

    `domain`: below which names are answered at the gateway; empty: nobody answers them. `public`: addresses of the
    world that are its own.
    """
    place: dict[str, Any] = {
        "device": DEVICE,
        "mac": mac_of(vmid),
        "address": ipv4_of(vmid),
        "prefix": prefix,
        "address6": ipv6_of(vmid),
        "prefix6": PREFIX6,
        "gateway": GATEWAY,
    }
    if domain:
        place |= {"resolver": GATEWAY, "search": domain}
    if public:
        place["public"] = list(public)
    if any(":" in one for one in public):  # without one it has no way out, and is told so at once
        place["gateway6"] = GATEWAY6
    return place


def prefix_for(vmids: Iterable[int]) -> int:
    """Bits of the smallest network that has an address for all of these, 24 at most."""
    # the last number of a network is its broadcast address
    most = max((number_of(vmid) for vmid in vmids), default=0) + 1
    return max(WIDEST, min(PREFIX, 32 - most.bit_length()))
