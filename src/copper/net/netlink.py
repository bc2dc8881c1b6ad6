"""The few messages of rtnetlink that networks need, packed by hand (rtnetlink(7), linux/if_link.h, linux/if_bridge.h).

A message costs 0.04 ms so. pyroute2 takes 0.3 ms for one, 0.15 s to be imported and 25 MB, and a clone needs five.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import select
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

NEWLINK, DELLINK, GETLINK, SETLINK, NEWADDR, NEWNEIGH = 16, 17, 18, 19, 20, 28
_REQUEST, _ACK, _DUMP, _CREATE, _EXCL, _REPLACE = 1, 4, 0x300, 0x400, 0x200, 0x100
_ERROR, _DONE = 2, 3
_IFNAME, _ADDRESS, _MASTER, _PROTINFO, _OPERSTATE, _LINKINFO = 3, 1, 10, 12, 16, 18
_OPERATES = b"\6"  # IF_OPER_UP
LINKS = 1  # RTMGRP_LINK: what changes about devices
_NESTED = 0x8000
_UP = 1
_BRIDGE = 7  # AF_BRIDGE
_LEARNING, _FLOOD, _PROXY_ARP_WIFI = 8, 9, 12  # IFLA_BRPORT_…
_MCAST_SNOOPING = 23  # IFLA_BR_…
_NO_DAD = 2


def attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _link(index: int = 0, *, up: bool = False, family: int = 0) -> bytes:
    return struct.pack("=BxHiII", family, 0, index, up, up)


Message = tuple[int, int, bytes]  # type, flags, body


def add_bridge(name: str, mac: str) -> Message:
    data = attribute(_MCAST_SNOOPING, b"\0")  # nobody asks who listens: all is sent to all
    info = attribute(1, b"bridge") + attribute(2 | _NESTED, data)
    body = _link() + _text(_IFNAME, name) + attribute(_ADDRESS, _mac(mac))
    return NEWLINK, _CREATE | _EXCL, body + attribute(_LINKINFO | _NESTED, info)


def set_up(name: str) -> Message:
    return NEWLINK, 0, _link(up=True) + _text(_IFNAME, name)


def remove(index: int) -> Message:
    return DELLINK, 0, _link(index)


def into_bridge(name: str, bridge: int) -> Message:
    return (
        NEWLINK,
        0,
        _link() + _text(_IFNAME, name) + attribute(_MASTER, struct.pack("=i", bridge)),
    )


def keep_quiet(port: int) -> Message:
    """A port whose station is known: the bridge learns nothing there, sends nothing for unknown stations to it, and
    answers ARP for the station's address itself, for who has it is known too."""
    off, on = b"\0", b"\1"
    info = attribute(_LEARNING, off) + attribute(_FLOOD, off) + attribute(_PROXY_ARP_WIFI, on)
    return SETLINK, 0, _link(port, family=_BRIDGE) + attribute(_PROTINFO | _NESTED, info)


def add_address(index: int, address: str, prefix: int) -> Message:
    packed = ipaddress.ip_address(address).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    body = struct.pack("=BBBBi", family, prefix, _NO_DAD, 0, index)
    body += attribute(2, packed) + attribute(1, packed)
    return NEWADDR, _CREATE | _REPLACE, body


def add_neighbour(index: int, address: str, mac: str) -> Message:
    """Who has this address, for ever."""
    packed = ipaddress.ip_address(address).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    body = struct.pack("=B3xiHBB", family, index, 0x80, 0, 0)
    return NEWNEIGH, _CREATE | _REPLACE, body + attribute(1, packed) + attribute(2, _mac(mac))


def add_station(port: int, mac: str) -> Message:
    """What is for this MAC leaves by this port of the bridge; it goes with the port."""
    body = struct.pack("=B3xiHBB", _BRIDGE, port, 0x40, 0x04, 0)
    return NEWNEIGH, _CREATE | _REPLACE, body + attribute(2, _mac(mac))


def _mac(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


class Port(NamedTuple):
    """A device: its number, whether it is up, and the number of the bridge that it is in, or 0."""

    number: int
    up: bool
    master: int


class Netlink:
    """A socket of the namespace that the thread is in which makes it; of that namespace it stays."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE, groups: int = 0) -> None:
        """`groups`: of what it is told, for `wait`."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        try:
            self._socket.bind((0, groups))
        except BaseException:
            self._socket.close()
            raise
        self._number = 0

    def close(self) -> None:
        self._socket.close()

    def ask(self, *messages: Message, fine: tuple[int, ...] = ()) -> None:
        """Has the kernel do these in turn. Raises the first's OSError but for errnos in `fine`; all are tried."""
        packed = b"".join(self._pack(kind, flags | _ACK, body) for kind, flags, body in messages)
        self._socket.send(packed)
        failed, answered = 0, 0
        while answered < len(messages):
            for kind, body in self._answers():
                if kind == _ERROR:
                    answered += 1
                    number = -struct.unpack_from("=i", body)[0]
                    failed = failed or (0 if number in fine else number)
        if failed:
            raise OSError(failed, os.strerror(failed))

    def links(self) -> dict[str, int]:
        """All devices of the namespace, with their indexes."""
        found: dict[str, int] = {}
        for body in self.listed(GETLINK, _link()):
            name = attributes_of(body[16:]).get(_IFNAME, b"").rstrip(b"\0")
            found[name.decode(errors="replace")] = struct.unpack_from("=i", body, 4)[0]
        return found

    def ports(self) -> dict[str, Port]:
        """The same, with what they are in."""
        found: dict[str, Port] = {}
        for body in self.listed(GETLINK, _link()):
            _, index, flags, _ = struct.unpack_from("=BxHiII", body)[1:]
            there = attributes_of(body[16:])
            master = struct.unpack("=i", there.get(_MASTER, bytes(4)))[0]
            name = there.get(_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
            found[name] = Port(index, bool(flags & _UP), master)
        return found

    def operates(self, index: int) -> bool:
        """Whether a device sends what it is given. Raises OSError when there is none."""
        self._socket.send(self._pack(GETLINK, 0, _link(index)))
        kind, body = next(self._answers())
        if kind == _ERROR:
            number = -struct.unpack_from("=i", body)[0]
            raise OSError(number, os.strerror(number))
        return attributes_of(body[16:]).get(_OPERSTATE) == _OPERATES

    def wait(self, within_s: float) -> bool:
        """Until something of its groups has changed; False: nothing did."""
        if not select.select([self._socket], [], [], max(0.0, within_s))[0]:
            return False
        with contextlib.suppress(OSError):  # more than it could keep: something did
            self._socket.recv(1 << 18)
        return True

    def listed(self, kind: int, body: bytes) -> Iterator[bytes]:
        """All that there is of a kind, such as GETLINK; to be read to its end."""
        self._socket.send(self._pack(kind, _DUMP, body))
        while True:
            for answer, there in self._answers():
                if answer in (_DONE, _ERROR):
                    return
                yield there

    def _pack(self, kind: int, flags: int, body: bytes) -> bytes:
        self._number += 1
        body += bytes(-len(body) % 4)
        return struct.pack("=IHHII", 16 + len(body), kind, flags | _REQUEST, self._number, 0) + body

    def _answers(self) -> Iterator[tuple[int, bytes]]:
        data = self._socket.recv(1 << 18)
        while len(data) >= 16:
            length, kind = struct.unpack_from("=IH", data)
            yield kind, data[16:length]
            data = data[(length + 3) & ~3 :]


def attributes_of(data: bytes) -> dict[int, bytes]:
    """The attributes of a message, without its head."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[max(4, (length + 3) & ~3) :]
    return found


def index_of(name: str) -> int:
    """Of a device in this thread's namespace. Raises FileNotFoundError."""
    with contextlib.suppress(OSError):
        return socket.if_nametoindex(name)
    raise FileNotFoundError(errno.ENOENT, "there is no such device", name)
