"""The frame readers in Python and in C give the same answers, whatever they are fed."""

from __future__ import annotations

import random
import struct
import subprocess

from copper.wire import frames
from copper.wire.frames import Frame, FrameReader
from tests.unit.guests import built

CASES = 2500
SEED = 20100401


def some_frame(chance: random.Random) -> Frame:
    longest = chance.choice([0, 10, 300, 300, 300, 3000, 32768])
    alphabet = chance.choice([b"\0", b"\0\1", bytes(range(256)), b'{}[]":,0a'])
    return Frame(
        kind=chance.choice([frames.MESSAGE, frames.DATA]),
        session=chance.getrandbits(32),
        payload=bytes(chance.choices(alphabet, k=chance.randint(0, longest))),
        stream=chance.getrandbits(32),
        channel=chance.randint(0, 2),
        flags=chance.getrandbits(8),
    )


def mutated(chance: random.Random, data: bytes) -> bytes:
    """Flips, cuts, doubles and inserts, as a bad line or a bad guest would."""
    changed = bytearray(data)
    for _ in range(chance.randint(0, 6)):
        at = chance.randint(0, len(changed))
        end = min(len(changed), at + chance.choice([1, 1, 2, 300, 40_000]))
        match chance.randint(0, 4):
            case 0 if at < len(changed):
                changed[at] ^= 1 << chance.randint(0, 7)
            case 1:
                del changed[at:end]
            case 2:
                changed[at:at] = changed[at:end]
            case 3:
                changed[at:at] = chance.randbytes(chance.choice([1, 4, 100]))
            case 4:
                changed[at:at] = b"\0" * chance.randint(1, 3)
    return bytes(changed)


def cases() -> list[tuple[bytes, int]]:
    chance = random.Random(SEED)
    made = [(b"", 1), (b"\0", 1), (b"\1" * 33_000 + b"\0", 7), (b"\1" * 33_001 + b"\0", 65535)]
    made += [(b"\xff" * 100_000 + b"\0" + frames.encode(some_frame(chance)), 4096)]
    while len(made) < CASES:
        sent = b"".join(frames.encode(some_frame(chance)) for _ in range(chance.randint(1, 3)))
        data = chance.randbytes(chance.randint(0, 200)) if chance.random() < 0.1 else sent
        made.append((mutated(chance, data), chance.choice([1, 13, 4096, 65535])))
    return made


def told_by_python(data: bytes, size: int) -> str:
    reader = FrameReader()
    lines = [
        f"{f.kind} {f.channel} {f.flags} {f.session} {f.stream} {f.payload.hex()}"
        for at in range(0, len(data), size)
        for f in reader.feed(data[at : at + size])
    ]
    return "\n".join([*lines, f"dropped {reader.dropped}"])


def test_both_ends_take_and_drop_the_same_frames() -> None:
    made = cases()
    fed = b"".join(struct.pack("<IH", len(data), size) + data for data, size in made)
    done = subprocess.run([built() / "fuzz_frames"], input=fed, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    expected = [told_by_python(data, size) for data, size in made]
    assert sum("dropped 0" not in text for text in expected) > CASES / 4  # it was a test
    assert sum(text.count("\n") for text in expected) > CASES / 4
    assert done.stdout.decode().splitlines() == "\n".join(expected).splitlines()
