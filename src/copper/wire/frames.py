"""Frames of the guest's channel: COBS, a header of 12 bytes, a payload, a CRC-32.

The layout is in docs/reference/protocol.md; guest/frames.c is the other end, and a test holds the
two to the same answers on the same bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from zlib import crc32

from cobs import cobs

VERSION = 1
MESSAGE, DATA = 1, 2  # kinds
END, MORE = 1, 2  # flags
STDIN, STDOUT, STDERR = 0, 1, 2  # channels
PAYLOAD_MOST = 32768  # bytes in one frame
HELD_MOST = 33000  # bytes without a zero that a reader keeps

_HEADER = struct.Struct("<BBBBII")
_CRC = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: `stream` and `channel` are 0 unless its kind is DATA."""

    kind: int
    session: int
    payload: bytes = b""
    stream: int = 0
    channel: int = 0
    flags: int = 0


def encode(frame: Frame) -> bytes:
    """The frame's bytes on the wire, its ending zero included; ValueError if it is too long."""
    if len(frame.payload) > PAYLOAD_MOST:
        raise ValueError(f"a frame holds {PAYLOAD_MOST} bytes, not {len(frame.payload)}")
    raw = _HEADER.pack(VERSION, frame.kind, frame.channel, frame.flags, frame.session, frame.stream)
    raw += frame.payload
    encoded: bytes = cobs.encode(raw + _CRC.pack(crc32(raw)))  # type: ignore[no-untyped-call]
    return encoded + b"\0"


def decode(encoded: bytes) -> Frame | None:
    """What the bytes between two zeros say, or nothing if they are not a sound frame."""
    try:
        raw: bytes = cobs.decode(encoded)  # type: ignore[no-untyped-call]
    except cobs.DecodeError:
        return None
    if not _HEADER.size + 4 <= len(raw) <= _HEADER.size + PAYLOAD_MOST + 4:
        return None
    version, kind, channel, flags, session, stream = _HEADER.unpack_from(raw)
    if version != VERSION or _CRC.unpack_from(raw, len(raw) - 4)[0] != crc32(raw[:-4]):
        return None
    if kind not in (MESSAGE, DATA) or channel > STDERR:
        return None
    return Frame(kind, session, raw[_HEADER.size : -4], stream, channel, flags)


class FrameReader:
    """Takes bytes as they come, gives whole frames; holds at most HELD_MOST bytes.

    `dropped` counts what was not a sound frame.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._held = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete."""
        frames = []
        *whole, rest = data.split(b"\0")
        for part in whole:
            if not part and not self._held and not self._skipping:
                continue  # zeros in a row, and quickly: there may be a flood of them
            self._hold(part)
            encoded, skipped = bytes(self._held), self._skipping
            self._held.clear()
            self._skipping = False
            if skipped or not encoded:
                continue
            frame = decode(encoded)
            if frame is None:
                self.dropped += 1
            else:
                frames.append(frame)
        self._hold(rest)
        return frames

    def _hold(self, part: bytes) -> None:
        if self._skipping:
            return
        if len(self._held) + len(part) > HELD_MOST:
            self.dropped += 1
            self._held.clear()
            self._skipping = True
        else:
            self._held += part
