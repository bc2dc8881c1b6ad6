"""The streams of a Copper without VMs: a command acts by its first word, files are kept in memory."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import WebSocket

from copper.model.errors import CopperError, NoRoom, NotFound


class Line:
    """A WebSocket as streams use it."""

    def __init__(self, ws: WebSocket) -> None:
        self.ws = ws

    async def tell(self, **message: Any) -> None:
        await self.ws.send_text(json.dumps(message))

    async def heard(self) -> bytes | dict[str, Any]:
        """Bytes, or a message; one of type `gone` when the client left."""
        got = await self.ws.receive()
        if got["type"] == "websocket.disconnect":
            return {"type": "gone"}
        if got.get("bytes") is not None:
            return bytes(got["bytes"])
        told: dict[str, Any] = json.loads(got["text"])
        return told

    async def flood(self, data: bytes) -> None:
        """Sends the same until it is cancelled."""
        while True:
            await self.ws.send_bytes(data)
            await asyncio.sleep(0)  # sending to a client that is gone would never let others run


async def fake_exec(line: Line) -> None:
    """The first word of the command says what becomes of it."""
    opening = await line.heard()
    assert isinstance(opening, dict)
    word, *rest = opening["argv"]
    await line.tell(type="started", pid=0 if word in ("nosuch", "noexec") else 7)
    match word:
        case "nosuch":
            await line.tell(type="exit", code=127, errno=2, message="No such file or directory")
        case "noexec":
            await line.tell(type="exit", code=126, errno=13, message="Permission denied")
        case "exit":
            await line.tell(type="exit", code=int(rest[0]))
        case "signalled":
            await line.tell(type="exit", signal=int(rest[0]))
        case "say":
            for number, text in enumerate(rest):
                await line.ws.send_bytes(bytes([1 + number % 2]) + text.encode())
            await line.tell(type="exit", code=0)
        case "opening":
            await line.ws.send_bytes(b"\x01" + json.dumps(opening["tty"]).encode())
            await fake_terminal(line)
        case "cat" | "deaf":
            if word == "deaf":
                await line.ws.send_bytes(b"\x01" + b"x" * (1 << 22))
            while isinstance(message := await line.heard(), bytes):
                await line.ws.send_bytes(b"\x01" + message[1:])
            assert message["type"] == "eof"
            await line.tell(type="exit", code=0)
        case "yes":
            flood = asyncio.ensure_future(line.flood(b"\x01" + b"y\n" * 1000))
            while isinstance(message := await line.heard(), bytes) or message["type"] != "gone":
                pass
            flood.cancel()
        case "wait" | "ignore":
            await line.ws.send_bytes(b"\x01waiting\n")
            while isinstance(message := await line.heard(), bytes) or message["type"] != "gone":
                if isinstance(message, dict) and message["type"] == "signal" and word == "wait":
                    await line.tell(type="exit", signal=message["signal"])
                    return
                await line.ws.send_bytes(b"\x01heard\n")
        case "nc":  # to a memcached that has one value, the same in all machines
            asked = b""
            while isinstance(message := await line.heard(), bytes):
                asked += message[1:]
            value = b"VALUE copper 0 5\r\nvalue\r\nEND\r\n"
            await line.ws.send_bytes(b"\x01" + (b"STORED\r\n" if asked[:3] == b"set" else value))
            await line.tell(type="exit", code=0)
        case "gc":
            if rest[-1] != "1":
                await line.ws.send_bytes(b"\x02gc: no room for it\n")
            await line.tell(type="exit", code=0 if rest[-1] == "1" else 16)
        case "lose":
            await line.ws.close(1011, "going down")


async def fake_terminal(line: Line) -> None:
    """Shows what it hears, until a key that says exit."""
    while True:
        message = await line.heard()
        shown = message[1:] if isinstance(message, bytes) else json.dumps(message).encode()
        await line.ws.send_bytes(b"\x01" + shown + b"|")
        if message == b"\x00q":
            await line.tell(type="exit", code=5)
            return


async def fake_console(line: Line) -> None:
    """Greets, echoes what is typed in capitals, and ends with the VM when told `die`."""
    await line.ws.send_bytes(b"login: ")
    while isinstance(message := await line.heard(), bytes):
        await line.ws.send_bytes(message.upper())
        if b"die" in message:
            return


async def fake_push(line: Line, files: dict[str, bytes]) -> None:
    opening = await line.heard()
    assert isinstance(opening, dict)
    if opening["path"].startswith("/full"):
        raise NoRoom(f"{opening['path']}: No space left on device")
    data = bytearray()
    while isinstance(message := await line.heard(), bytes):
        data += message
    if message["type"] != "eof":
        return
    files[opening["path"]] = bytes(data)
    files[opening["path"] + "?"] = json.dumps(opening).encode()
    await line.tell(type="exit", code=0)


async def fake_pull(line: Line, files: dict[str, bytes]) -> None:
    opening = await line.heard()
    assert isinstance(opening, dict)
    path = opening["path"]
    if path == "/cut":
        await line.tell(type="started", size=10, mode=0o644, mtime_ns=0)
        await line.ws.send_bytes(b"half")
        raise CopperError("the VM ended")
    if path not in files:
        raise NotFound(f"{path}: No such file or directory")
    mtime_ns = 1_600_000_000_000_000_005
    await line.tell(type="started", size=len(files[path]), mode=0o4750, mtime_ns=mtime_ns)
    for start in range(0, len(files[path]), 1000):
        await line.ws.send_bytes(files[path][start : start + 1000])
    await line.tell(type="exit", code=0)
