"""Messages of the guest's channel: JSON objects with a type, checked as they come from a guest.

A guest is not trusted: what it sends is parsed into frozen records with bounds, or dropped. What
the host sends is written as plain dictionaries by `pack`, since nobody has to doubt it.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, TypeAdapter, ValidationError

from copper.model.ssh import is_public_key
from copper.wire import frames

MESSAGE_MOST = 262_144  # bytes of JSON, over all its frames
SEED_BYTES = 64
WORKING_MOST_S = 3600.0  # that a guest's hooks may ask for

Number = Annotated[int, Field(ge=0, le=0xFFFF_FFFF)]
Text = Annotated[str, Field(max_length=4096)]


@dataclass(frozen=True, slots=True)
class Hello:
    """There is an agent: its version, and the boot id of its kernel."""

    type: Literal["hello"]
    agent: Text
    boot_id: Text


@dataclass(frozen=True, slots=True)
class Ready:
    """The guest took its identity. `uptime_ms` in milliseconds, `load` in hundredths; `public`: its own addresses in
    the world, as many as it was told."""

    type: Literal["ready"]
    session: Number
    agent: Text
    uptime_ms: int
    load: int
    ssh_host_key: Text = ""
    public: int = 0

    @property
    def host_key(self) -> str:
        """The SSH host key, if it can be one: what else a guest says of it gets into no file."""
        return self.ssh_host_key if is_public_key(self.ssh_host_key) else ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The guest could not take its identity: the step and why."""

    type: Literal["failed"]
    session: Number
    step: Text
    message: Text


@dataclass(frozen=True, slots=True)
class Working:
    """The guest runs its hooks: within `ms` milliseconds it is ready, or failed."""

    type: Literal["working"]
    session: Number
    ms: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class Call:
    """A program's request. `pid` and `uid` are what the guest says, not what is known."""

    type: Literal["call"]
    call: Number
    verb: Annotated[str, Field(max_length=64)]
    args: dict[str, Any]
    pid: int = 0
    uid: int = 0


@dataclass(frozen=True, slots=True)
class Cancel:
    """The program that made this call has gone away."""

    type: Literal["cancel"]
    call: Number


@dataclass(frozen=True, slots=True)
class Started:
    """A command runs, or a file is open: `size` in bytes, `mtime_ns` since the epoch."""

    type: Literal["started"]
    stream: Number
    pid: int = 0
    path: Annotated[str, Field(max_length=8192)] = ""
    size: int = 0
    mode: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Exit:
    """A stream is over: `code` or `signal` of a command, `errno` if it never started or broke."""

    type: Literal["exit"]
    stream: Number
    code: int | None = None
    signal: int | None = None
    errno: int = 0
    message: Text = ""

    @property
    def status(self) -> int:
        """The shell's convention: the code, 128 + the signal, 127 not found, 126 not run."""
        if self.errno:
            return 127 if self.errno == 2 else 126
        if self.signal is not None:
            return 128 + self.signal
        return 0 if self.code is None else self.code


@dataclass(frozen=True, slots=True)
class Credit:
    """The sender of this channel may send so many bytes more."""

    type: Literal["credit"]
    stream: Number
    channel: Annotated[int, Field(ge=0, le=2)]
    bytes: Annotated[int, Field(ge=1, le=1 << 30)]


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping."""

    type: Literal["pong"]
    id: Number


FromGuest = Hello | Ready | Failed | Working | Call | Cancel | Started | Exit | Credit | Pong
_from_guest: TypeAdapter[FromGuest] = TypeAdapter(Annotated[FromGuest, Discriminator("type")])


def parse(text: bytes) -> FromGuest | None:
    """What a guest's message says; None for a type that this host does not know.

    Raises ValueError for what is not a JSON object, or has a member out of bounds.
    """
    try:
        return _from_guest.validate_json(text)
    except ValidationError as error:
        if error.errors(include_url=False)[0]["type"] == "union_tag_invalid":
            return None
        raise ValueError(str(error)) from None


def session(
    number: int, identity: Mapping[str, Any], event: str, call: int | None, hosts: str
) -> dict[str, Any]:
    """The message that begins a session, with the time and randomness of now.

    An identity's `login_key` and `rehearsal` go beside it: the identity is kept where every program can read it.
    """
    own = dict(identity)
    beside = {key: own.pop(key) for key in ("login_key", "rehearsal") if key in own}
    message: dict[str, Any] = {
        "type": "session",
        "session": number,
        "identity": own,
        "realtime_ns": time.time_ns(),
        "seed": base64.b64encode(os.urandom(SEED_BYTES)).decode(),
        "event": event,
    }
    if call is not None:
        message["call"] = call
    if hosts:
        message["hosts"] = hosts
    return message | {key: value for key, value in beside.items() if value}


def pack(session: int, message: Mapping[str, Any]) -> bytes:
    """A message as frames on the wire; ValueError beyond MESSAGE_MOST bytes."""
    text = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
    if len(text) > MESSAGE_MOST:
        raise ValueError(f"a message holds {MESSAGE_MOST} bytes, not {len(text)}")
    most = frames.PAYLOAD_MOST
    if len(text) <= most:
        return frames.encode(frames.Frame(frames.MESSAGE, session, text))
    parts = [text[at : at + most] for at in range(0, len(text), most)]
    return b"".join(
        frames.encode(frames.Frame(frames.MESSAGE, session, part, flags=frames.MORE))
        for part in parts[:-1]
    ) + frames.encode(frames.Frame(frames.MESSAGE, session, parts[-1]))


class Assembly:
    """Joins the parts of messages that came in several frames; holds at most MESSAGE_MOST bytes.

    `dropped` counts messages that were too long, or never ended.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._forget()

    def _forget(self) -> None:
        self._text = bytearray()
        self._session: int | None = None
        self._spoiled = False

    def add(self, frame: frames.Frame) -> bytes | None:
        """The message that this frame ends, or None."""
        if self._session is not None and self._session != frame.session:
            self.dropped += 1
            self._forget()
        more = frame.flags & frames.MORE
        if self._session is None and not more:
            return frame.payload
        self._session = frame.session
        if len(self._text) + len(frame.payload) > MESSAGE_MOST:
            self._spoiled = True
        if not self._spoiled:
            self._text += frame.payload
        if more:
            return None
        text, spoiled = bytes(self._text), self._spoiled
        self._forget()
        if spoiled:
            self.dropped += 1
            return None
        return text
