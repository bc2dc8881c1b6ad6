"""Sockets of other places, such as a virtual cluster's own network, lent to the server of names over a Unix socket.

Who lends opens a connection, sends one message with two descriptors, UDP's and TCP's, and reads `ok`. The sockets are
served for as long as the connection is open: whoever of the two ends, the other one sees it. Who starts the server
makes the Unix socket, so those who lend wait in it while the server is started anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from copper.model.errors import BadInput, CopperError

log = logging.getLogger(__name__)

MOST = 4096  # bytes of a message
OK = b"ok"
AGAIN_S = (0.05, 2.0)  # between two attempts: at first, and at most
WAIT_S = 10.0  # for the message, or for `ok`

Serving = Callable[
    [str, socket.socket, socket.socket], contextlib.AbstractAsyncContextManager[None]
]


class Served(asyncio.Event):
    """Whether the server has what is lent, and since when, by the monotonic clock."""

    def __init__(self) -> None:
        super().__init__()
        self.since = time.monotonic()

    def set(self) -> None:
        self.since = time.monotonic()
        super().set()

    def clear(self) -> None:
        self.since = time.monotonic()
        super().clear()


@contextlib.asynccontextmanager
async def lent(
    path: Path, cluster: str, udp: socket.socket, tcp: socket.socket
) -> AsyncIterator[Served]:
    """Has the server of names at `path` answer on two sockets as inside a virtual cluster: bound ones, `tcp` listening.

    It may start later and be started anew: it gets them again. The event says whether it has them now.
    """
    served = Served()
    order = json.dumps({"cluster": cluster}).encode()
    keeping = asyncio.create_task(_keep(path, order, (udp.fileno(), tcp.fileno()), served))
    try:
        yield served
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def _keep(path: Path, order: bytes, fds: tuple[int, int], served: Served) -> None:
    loop = asyncio.get_running_loop()
    pause_s = AGAIN_S[0]
    while True:
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock,
        ):
            sock.setblocking(False)
            sock.connect(str(path))
            socket.send_fds(sock, [order], fds)
            async with asyncio.timeout(WAIT_S):
                said = await loop.sock_recv(sock, MOST)
            if said == OK:
                pause_s = AGAIN_S[0]
                served.set()
                try:
                    await loop.sock_recv(sock, MOST)  # nothing comes but the end
                finally:
                    served.clear()
            else:
                log.warning("names are not answered: %s", said.decode(errors="replace"))
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, AGAIN_S[1])


@contextlib.contextmanager
def lending_socket(path: Path) -> Iterator[socket.socket]:
    """Where others lend, for `borrowing`: a socket at `path` that only its owner reaches, until the block's end."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(1024)
        listener.setblocking(False)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def borrowing(listener: socket.socket, serving: Serving) -> AsyncIterator[None]:
    """Serves what others lend, until the end of the block. The listener stays its owner's, and open."""
    tasks: set[asyncio.Task[None]] = set()
    listener.setblocking(False)
    accepting = asyncio.create_task(_accept(listener, serving, tasks))
    try:
        yield
    finally:
        for task in (accepting, *tasks):
            task.cancel()
        await asyncio.gather(accepting, *tasks, return_exceptions=True)


async def _accept(
    listener: socket.socket, serving: Serving, tasks: set[asyncio.Task[None]]
) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            sock, _ = await loop.sock_accept(listener)
        except OSError as error:
            log.warning("nothing can be lent: %s", error)
            await asyncio.sleep(AGAIN_S[1])
            continue
        task = asyncio.create_task(_borrow(sock, serving))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _borrow(sock: socket.socket, serving: Serving) -> None:
    loop = asyncio.get_running_loop()
    with sock, contextlib.ExitStack() as closing:
        try:
            async with asyncio.timeout(WAIT_S):
                await _readable(sock)
            said, fds, _, _ = socket.recv_fds(sock, MOST, 2)
            for fd in fds:
                closing.callback(os.close, fd)
            order, (udp, tcp) = _order_of(said), _pair_of(fds, closing)
            async with serving(order["cluster"], udp, tcp):
                await loop.sock_sendall(sock, OK)
                await loop.sock_recv(sock, MOST)
        except (CopperError, OSError) as error:
            with contextlib.suppress(OSError):
                await loop.sock_sendall(sock, str(error).encode()[:MOST])


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def say() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock, say)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def _order_of(said: bytes) -> dict[str, Any]:
    try:
        order: dict[str, Any] = json.loads(said)
        if not isinstance(order["cluster"], str) or not order["cluster"]:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{said!r:.80} lends nothing") from None
    return order


def _pair_of(fds: list[int], closing: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    """Raises BadInput for anything but a UDP and a listening TCP socket."""
    if len(fds) == 2:
        udp, tcp = (closing.enter_context(socket.socket(fileno=os.dup(fd))) for fd in fds)
        listens = tcp.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if (udp.type, tcp.type) == (socket.SOCK_DGRAM, socket.SOCK_STREAM) and listens:
            return udp, tcp
    raise BadInput("expected a UDP socket and a TCP socket that listens")
