"""The host agent's WebSockets: exec, push, pull, console and connect (docs/reference/api.md)."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from copper.host.streams import Stream
from copper.host.vm import Vm
from copper.model.errors import BadInput, CopperError
from copper.wire.messages import Exit
from copper.wire.problems import to_problem

Find = Callable[[], Vm]
PIECE = 1 << 18  # bytes of one message to a client


class _Opening(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Tty(_Opening):
    """A terminal's size in characters, and its kind."""

    rows: int = Field(ge=1, le=10_000)
    cols: int = Field(ge=1, le=10_000)
    term: str = "xterm"


class ExecOpening(_Opening):
    """The first message of `exec`."""

    argv: list[str] = Field(min_length=1)
    env: dict[str, str] = {}
    cwd: str = "/"
    tty: Tty | None = None


class PushOpening(_Opening):
    """The first message of `push`."""

    path: str
    name: str
    mode: int = Field(default=0o644, ge=0, le=0o7777)
    mtime_ns: int | None = None


class PullOpening(_Opening):
    """The first message of `pull`."""

    path: str


class ConnectOpening(_Opening):
    """The first message of `connect`."""

    port: int = Field(ge=1, le=65_535)


class _Gone(Exception):
    """The client is gone: nobody is left to tell."""


async def _serve(socket: WebSocket, work: Callable[[], Any]) -> None:
    """Accepts, works, and tells an error as the last message."""
    await socket.accept()
    try:
        await work()
    except (WebSocketDisconnect, _Gone):
        return
    except CopperError as error:
        await _tell(socket, {"type": "error", "problem": to_problem(error)})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        problem = to_problem(BadInput(f"{where or 'the first message'}: {first['msg']}"))
        await _tell(socket, {"type": "error", "problem": problem})
    try:
        await socket.close()
    except RuntimeError:
        return  # the client was faster


async def _tell(socket: WebSocket, message: dict[str, Any]) -> None:
    try:
        await socket.send_text(json.dumps(message))
    except (RuntimeError, WebSocketDisconnect):
        raise _Gone from None


async def _send(socket: WebSocket, data: bytes) -> None:
    try:
        await socket.send_bytes(data)
    except (RuntimeError, WebSocketDisconnect):
        raise _Gone from None


async def _receive(socket: WebSocket) -> bytes | dict[str, Any]:
    """The client's next message. Raises _Gone, BadInput for what is no message."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise _Gone
    if message.get("bytes") is not None:
        return bytes(message["bytes"])
    try:
        told = json.loads(message.get("text") or "")
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise BadInput("a text message is a JSON object")
    return told


def _exit(exit: Exit) -> dict[str, Any]:
    told: dict[str, Any] = {"type": "exit", "code": exit.code}
    if exit.signal is not None:
        told = {"type": "exit", "signal": exit.signal}
    if exit.errno:
        told |= {"code": exit.status, "errno": exit.errno, "message": exit.message}
    return told


async def _until_first(*works: Coroutine[Any, Any, None]) -> None:
    """Runs both directions of a stream until one is over; raises what ended it."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def exec_in(socket: WebSocket, find: Find) -> None:
    """A command in a guest: its input, outputs, signals, window and end."""

    async def work() -> None:
        opening = ExecOpening.model_validate(await _receive(socket))
        tty = opening.tty.model_dump() if opening.tty else None
        command = await (await find().guest()).exec(opening.argv, opening.env, opening.cwd, tty)
        async with command:
            await _tell(socket, {"type": "started", "pid": command.pid})
            await _until_first(_show(socket, command), _take(socket, command))
            await _tell(socket, _exit(await command.wait()))

    await _serve(socket, work)


async def _show(socket: WebSocket, command: Stream) -> None:
    async for channel, data in command:
        await _send(socket, bytes([channel]) + data)


async def _take(socket: WebSocket, command: Stream) -> None:
    """What the client sends, until it is gone: `_Gone` says that."""
    while True:
        message = await _receive(socket)
        if isinstance(message, bytes):
            await command.write(message[1:])
            continue
        match message.get("type"):
            case "eof":
                command.eof()
            case "signal":
                command.signal(_number(message, "signal", 64))
            case "resize":
                command.resize(_number(message, "rows", 10_000), _number(message, "cols", 10_000))
            case other:
                raise BadInput(f"unknown message {other!r:.40}", advice="eof, signal or resize")


def _number(message: dict[str, Any], member: str, most: int) -> int:
    value = message.get(member)
    if not isinstance(value, int) or not 1 <= value <= most:
        raise BadInput(f"{member}: expected a number from 1 to {most}, got {value!r:.40}")
    return value


async def push(socket: WebSocket, find: Find) -> None:
    """A file into a guest, whole or not at all."""

    async def chunks() -> AsyncIterator[bytes]:
        while True:
            message = await _receive(socket)
            if isinstance(message, bytes):
                yield message
            elif message.get("type") == "eof":
                return
            else:
                raise BadInput("a file is sent as bytes, then eof")

    async def work() -> None:
        opening = PushOpening.model_validate(await _receive(socket))
        path = await (await find().guest()).push(
            opening.path,
            chunks(),
            name=opening.name,
            mode=opening.mode,
            mtime_ns=opening.mtime_ns,
        )
        await _tell(socket, {"type": "exit", "code": 0, "path": path})

    await _serve(socket, work)


async def pull(socket: WebSocket, find: Find) -> None:
    """A file out of a guest."""

    async def work() -> None:
        opening = PullOpening.model_validate(await _receive(socket))
        file = await (await find().guest()).pull(opening.path)
        async with file:
            await _tell(
                socket,
                {
                    "type": "started",
                    "size": file.size,
                    "mode": file.mode,
                    "mtime_ns": file.mtime_ns,
                },
            )
            while data := await file.chunk():
                await _send(socket, data)
            await _tell(socket, {"type": "exit", "code": 0})

    await _serve(socket, work)


async def console(socket: WebSocket, find: Find) -> None:
    """A VM's serial line."""

    async def work() -> None:
        line = find().console
        with line.attach() as shown:

            async def show() -> None:
                async for data in shown:
                    await _send(socket, data)

            async def take() -> None:
                while True:
                    message = await _receive(socket)
                    if isinstance(message, bytes):
                        await line.write(message)

            try:
                await _until_first(show(), take())
            except OSError as error:
                raise CopperError(f"the serial line was lost: {error.strerror}") from error

    await _serve(socket, work)


async def connect(socket: WebSocket, find: Find) -> None:
    """A TCP connection to a port of a VM, until the VM ends it or the client is gone."""

    async def work() -> None:
        opening = ConnectOpening.model_validate(await _receive(socket))
        vm = find()
        try:
            connection = await vm.machine.connect(opening.port)
        except ConnectionRefusedError:
            raise CopperError(f"nothing listens at port {opening.port} of {vm.name}") from None
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise CopperError(f"port {opening.port} of {vm.name}: {why}") from error
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            await _tell(socket, {"type": "started"})
            await _until_first(_from_vm(socket, reader), _to_vm(socket, writer))
            await _tell(socket, {"type": "exit", "code": 0})
        except OSError as error:
            why = error.strerror or "it was lost"
            raise CopperError(f"the connection to port {opening.port}: {why}") from error
        finally:
            writer.close()

    await _serve(socket, work)


async def _from_vm(socket: WebSocket, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(PIECE):
        await _send(socket, data)


async def _to_vm(socket: WebSocket, writer: asyncio.StreamWriter) -> None:
    """What the client sends, until it is gone: `_Gone` says that."""
    while True:
        message = await _receive(socket)
        if isinstance(message, bytes):
            writer.write(message)
            await writer.drain()
        elif message.get("type") == "eof":
            writer.write_eof()
        else:
            raise BadInput("what goes to a port is sent as bytes, then eof")
