"""Messages of rtnetlink for ways between namespaces: cables, routes, and addresses that are answered for."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Mapping

from copper.model.errors import Refused
from copper.net.netlink import (
    NEWADDR,
    NEWLINK,
    NEWNEIGH,
    Message,
    Netlink,
    attribute,
    attributes_of,
)

DELNEIGH, GETNEIGH, NEWROUTE, DELROUTE, GETROUTE, NEWRULE = 29, 30, 24, 25, 26, 32
OURS = 0x63  # of a route, who made it: rt_protos has nobody there
MANY = 64  # messages at a time: answers of more might not fit the socket
FAMILIES = (socket.AF_INET, socket.AF_INET6)
GONE = (errno.ESRCH, errno.ENOENT, errno.ENODEV)
_CREATE, _EXCL, _REPLACE = 0x400, 0x200, 0x100
_NESTED = 0x8000
_PROXY = 0x08  # NTF_PROXY
_MAIN, _UNICAST = 254, 1
_TO_TABLE, _FWMARK = 1, 10  # FR_ACT_TO_TBL, FRA_FWMARK
_DST, _OIF, _GATEWAY = 1, 4, 5
NETFILTER = 12  # the protocol of a socket for connections
_VMID = struct.pack("!I", (1 << 24) - 1)  # of a mark
_CONNECTIONS, _MARK, _MASK = 1 << 8, 8, 21  # NFNL_SUBSYS_CTNETLINK, CTA_MARK, CTA_MARK_MASK


def add_cable(name: str, other: str, namespace: int) -> Message:
    """A device here and its other end in the namespace of this descriptor."""
    far = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
    far += attribute(3, other.encode() + b"\0") + attribute(28, struct.pack("=I", namespace))
    info = attribute(1, b"veth\0") + attribute(2 | _NESTED, attribute(1 | _NESTED, far))
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attribute(3, name.encode() + b"\0")
    return NEWLINK, _CREATE | _EXCL, body + attribute(18 | _NESTED, info)


def add_end(index: int, address: str, other: str) -> Message:
    """The address of this end of a cable, and of the other one; of IPv4."""
    body = struct.pack("=BBBBi", socket.AF_INET, 32, 0, 0, index)
    body += attribute(2, _packed(address)) + attribute(1, _packed(other))
    return NEWADDR, _CREATE | _REPLACE, body


def add_route(address: str, via: str, device: int) -> Message:
    """To one address, which nobody else routes elsewhere, or with an empty one to all that has no other way."""
    flags = _CREATE | (_EXCL if address else _REPLACE)
    return NEWROUTE, flags, _route(address, device, via) + attribute(_GATEWAY, _packed(via))


def remove_route(address: str, device: int) -> Message:
    """Of those that `add_route` makes."""
    return DELROUTE, 0, _route(address, device, address)


def _route(address: str, device: int, like: str) -> bytes:
    bits = 8 * len(_packed(address)) if address else 0
    head = struct.pack("=BBBBBBBBI", _family(like), bits, 0, 0, _MAIN, OURS, 0, _UNICAST, 0)
    if address:
        head += attribute(_DST, _packed(address))
    return head + attribute(_OIF, struct.pack("=i", device))


def add_marked_route(via: str, device: int, mark: int) -> tuple[Message, Message]:
    """To anywhere, for packets with this mark, in a table of that number; again: EEXIST from the second."""
    head = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, mark, OURS, 0, _UNICAST, 0)
    body = head + attribute(_OIF, struct.pack("=i", device)) + attribute(_GATEWAY, _packed(via))
    rule = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, mark, 0, 0, _TO_TABLE, 0)
    rule += attribute(_FWMARK, struct.pack("=I", mark))
    return (NEWROUTE, _CREATE | _REPLACE, body), (NEWRULE, _CREATE | _EXCL, rule)


def answer_for(address: str, device: int) -> Message:
    """Whoever asks on this device who has an address is told: this host."""
    return NEWNEIGH, _CREATE | _REPLACE, _proxy(address, device)


def no_longer_answer_for(address: str, device: int) -> Message:
    return DELNEIGH, 0, _proxy(address, device)


def _proxy(address: str, device: int) -> bytes:
    head = struct.pack("=B3xiHBB", _family(address), device, 0x80, _PROXY, 0)
    return head + attribute(1, _packed(address))


def routes(link: Netlink) -> set[tuple[str, int]]:
    """The addresses that Copper has routes to in a namespace, each with its device."""
    found = set()
    for family in FAMILIES:
        asked = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)
        for body in link.listed(GETROUTE, asked):
            _, bits, _, _, _, protocol, _, _, _ = struct.unpack_from("=BBBBBBBBI", body)
            there = attributes_of(body[12:])
            if protocol == OURS and bits in (32, 128) and _DST in there and _OIF in there:
                address = str(ipaddress.ip_address(there[_DST]))
                found.add((address, struct.unpack("=i", there[_OIF])[0]))
    return found


def answered_for(link: Netlink) -> set[tuple[str, int]]:
    """The addresses that somebody has a namespace answer for, each with its device."""
    found = set()
    for family in FAMILIES:
        asked = struct.pack("=B3xiHBB", family, 0, 0, _PROXY, 0)
        for body in link.listed(GETNEIGH, asked):
            device, _, flags = struct.unpack_from("=iHB", body, 4)
            there = attributes_of(body[12:])
            if flags & _PROXY and 1 in there:
                found.add((str(ipaddress.ip_address(there[1])), device))
    return found


def have(link: Netlink, wanted: Mapping[tuple[str, int], str], had: set[tuple[str, int]]) -> None:
    """Has these be the routes to one address each instead of those that were, by address and device. Raises Refused."""
    ask_all(link, [remove_route(*one) for one in sorted(had - wanted.keys())])
    new = sorted(wanted.keys() - had)
    try:
        ask_all(link, [add_route(one[0], wanted[one], one[1]) for one in new])
    except FileExistsError:
        raise Refused(
            f"this host has a way to {' or '.join(one[0] for one in new[:5])} already"
        ) from None


def ask_all(link: Netlink, messages: list[Message]) -> None:
    """As many as there are; what is gone already is fine."""
    for begin in range(0, len(messages), MANY):
        link.ask(*messages[begin : begin + MANY], fine=GONE)


def forget_connections(mark: int) -> Message:
    """What connections with this mark were translated to; for a socket of NETLINK_NETFILTER."""
    body = struct.pack("!BBH", socket.AF_UNSPEC, 0, 0)
    body += attribute(_MARK, struct.pack("!I", mark)) + attribute(_MASK, _VMID)
    return _CONNECTIONS | 2, 0, body


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
