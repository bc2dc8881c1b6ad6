"""Echoes of ICMP, asked for from the host's end of a private network (RFC 792)."""

from __future__ import annotations

import asyncio
import socket
import struct

_ECHO, _REPLY = 8, 0
_HEAD = struct.Struct("!BBHHH")
_TEXT = b"copper\0\0"


def new_socket() -> socket.socket:
    """Of this thread's network; it does not block. Raises OSError without root."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    sock.setblocking(False)
    return sock


def request(number: int) -> bytes:
    """A packet that asks for an echo with this number of 16 bits."""
    whole = _HEAD.pack(_ECHO, 0, 0, number, 1) + _TEXT
    total = sum(struct.unpack(f"!{len(whole) // 2}H", whole))
    total = (total & 0xFFFF) + (total >> 16)
    check = ~(total + (total >> 16)) & 0xFFFF
    return _HEAD.pack(_ECHO, 0, check, number, 1) + _TEXT


def is_reply(packet: bytes, number: int) -> bool:
    """Whether a packet, its IP header included, is the echo with this number."""
    start = (packet[0] & 15) * 4 if packet else 0
    if len(packet) < start + _HEAD.size:
        return False
    kind, _, _, found, _ = _HEAD.unpack_from(packet, start)
    return bool(kind == _REPLY and found == number)


async def echoed(sock: socket.socket, address: str, number: int) -> None:
    """Asks for an echo and waits for it, for as long as it takes. Raises OSError."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendto(sock, request(number), (address, 0))
    while True:
        packet, (sender, _) = await loop.sock_recvfrom(sock, 2048)
        if sender == address and is_reply(packet, number):
            return
