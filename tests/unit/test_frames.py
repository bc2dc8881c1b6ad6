"""Frames and messages of the guest's channel: what goes in comes out, and nothing else does."""

from __future__ import annotations

import contextlib
import json
import zlib
from typing import Any

import pytest
from cobs import cobs
from hypothesis import given
from hypothesis import strategies as st

from copper.wire import frames, messages
from copper.wire.frames import DATA, MESSAGE, MORE, Frame, FrameReader

some_frames = st.builds(
    Frame,
    kind=st.sampled_from([MESSAGE, DATA]),
    session=st.integers(0, 2**32 - 1),
    payload=st.binary(max_size=2000),
    stream=st.integers(0, 2**32 - 1),
    channel=st.integers(0, 2),
    flags=st.integers(0, 255),
)


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def fed(reader: FrameReader, data: bytes, size: int = 65536) -> list[Frame]:
    return [frame for piece in pieces(data, size) for frame in reader.feed(piece)]


@given(st.lists(some_frames, max_size=5), st.integers(1, 5000))
def test_frames_come_out_as_they_went_in_however_they_are_cut(sent: list[Frame], size: int) -> None:
    reader = FrameReader()
    assert fed(reader, b"".join(map(frames.encode, sent)), size) == sent
    assert reader.dropped == 0


@pytest.mark.parametrize("length", [0, 1, 253, 254, 255, 508, 32767, 32768])
@pytest.mark.parametrize("byte", [b"\0", b"\1", b"\xff"])
def test_payloads_of_every_length_survive(length: int, byte: bytes) -> None:
    sent = Frame(DATA, 7, byte * length, 9, 1)
    encoded = frames.encode(sent)
    assert encoded.index(0) == len(encoded) - 1
    assert len(encoded) <= frames.HELD_MOST
    assert FrameReader().feed(encoded) == [sent]


def test_a_payload_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(ValueError, match="32768"):
        frames.encode(Frame(DATA, 1, b"x" * 32769))


@given(some_frames, some_frames, st.data())
def test_a_frame_that_is_cut_off_costs_nothing_but_itself(
    cut: Frame, whole: Frame, data: st.DataObject
) -> None:
    encoded = frames.encode(cut)
    end = data.draw(st.integers(0, len(encoded) - 2))
    reader = FrameReader()
    assert reader.feed(encoded[:end] + b"\0" + frames.encode(whole)) == [whole]
    assert reader.dropped == (end > 0)


@given(some_frames, st.data())
def test_a_changed_bit_is_found(frame: Frame, data: st.DataObject) -> None:
    encoded = bytearray(frames.encode(frame))
    at = data.draw(st.integers(0, len(encoded) - 2))
    encoded[at] ^= 1 << data.draw(st.integers(0, 7))
    assert frame not in FrameReader().feed(bytes(encoded) + b"\0")


@given(st.lists(st.binary(max_size=50_000), max_size=4))
def test_whatever_comes_the_reader_stays_bounded_and_goes_on(garbage: list[bytes]) -> None:
    reader = FrameReader()
    for part in garbage:
        reader.feed(part)
        assert len(reader._held) <= frames.HELD_MOST
    sound = Frame(MESSAGE, 1, b"{}")
    assert reader.feed(b"\0" + frames.encode(sound))[-1] == sound


def test_bytes_without_a_zero_are_thrown_away_and_counted_once() -> None:
    reader = FrameReader()
    for _ in range(1000):
        assert reader.feed(b"\1" * 65536) == []
    assert reader.feed(b"\0") == []
    assert reader.dropped == 1


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 2), (1, 0), (1, 3), (2, 3)],
    ids=["version", "kind 0", "kind 3", "channel"],
)
def test_what_this_version_does_not_know_is_dropped(at: int, value: int) -> None:
    encoded = frames.encode(Frame(DATA, 1, b"x"))[:-1]
    raw = bytearray(cobs.decode(encoded))[:-4]  # type: ignore[no-untyped-call]
    raw[at] = value
    raw += zlib.crc32(raw).to_bytes(4, "little")
    reader = FrameReader()
    assert reader.feed(cobs.encode(bytes(raw)) + b"\0") == []  # type: ignore[no-untyped-call]
    assert reader.dropped == 1


def joined(data: bytes) -> tuple[list[bytes], messages.Assembly]:
    assembly = messages.Assembly()
    found = [
        text for frame in FrameReader().feed(data) if (text := assembly.add(frame)) is not None
    ]
    return found, assembly


def test_a_long_message_travels_in_several_frames() -> None:
    message = {"type": "reply", "result": ["x" * 100] * 2000}
    texts, assembly = joined(messages.pack(5, message) + messages.pack(5, {"type": "ping"}))
    assert [json.loads(text) for text in texts] == [message, {"type": "ping"}]
    assert assembly.dropped == 0


def test_a_message_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(ValueError, match="262144"):
        messages.pack(1, {"type": "x" * 262_144})


def test_a_message_that_never_ends_is_not_held_and_the_next_session_is_heard() -> None:
    assembly = messages.Assembly()
    part = Frame(MESSAGE, 1, b"x" * 32768, flags=MORE)
    for _ in range(100):
        assert assembly.add(part) is None
        assert len(assembly._text) <= messages.MESSAGE_MOST
    assert assembly.add(Frame(MESSAGE, 2, b"{}")) == b"{}"
    assert assembly.dropped == 1


def test_a_message_cut_off_by_a_new_session_is_not_finished_by_it() -> None:
    assembly = messages.Assembly()
    assert assembly.add(Frame(MESSAGE, 1, b"old", flags=MORE)) is None
    assert assembly.add(Frame(MESSAGE, 2, b"new", flags=MORE)) is None
    assert assembly.add(Frame(MESSAGE, 2, b"er")) == b"newer"


def parsed(**message: Any) -> messages.FromGuest | None:
    return messages.parse(json.dumps(message).encode())


def test_unknown_types_and_members_are_ignored() -> None:
    assert parsed(type="song", words="la") is None
    assert parsed(type="pong", id=4, later="more") == messages.Pong("pong", 4)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"7",
        b"{}",
        b'{"type": "pong"}',
        b'{"type": "pong", "id": -1}',
        b'{"type": "pong", "id": "x"}',
        b'{"type": "credit", "stream": 1, "channel": 9, "bytes": 1}',
        b'{"type": "call", "call": 1, "verb": "v", "args": []}',
        b'{"type": "hello", "agent": "\xff", "boot_id": ""}',
        b'{"type": "call", "call": 1, "verb": "\\ud800", "args": {}}',
        b"[" * 200_000,
        b'{"type": "pong", "id": ' + b"9" * 200_000 + b"}",
    ],
    ids=lambda text: text[:30],
)
def test_messages_that_make_no_sense_are_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"validation error"):
        messages.parse(text)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        messages.parse(text)


@pytest.mark.parametrize(
    ("exit", "status"),
    [
        ({"code": 0}, 0),
        ({"code": 3}, 3),
        ({"signal": 9}, 137),
        ({"errno": 2}, 127),
        ({"errno": 13}, 126),
    ],
)
def test_an_exit_has_the_shells_status(exit: dict[str, int], status: int) -> None:
    told = parsed(type="exit", stream=1, **exit)
    assert isinstance(told, messages.Exit)
    assert told.status == status
