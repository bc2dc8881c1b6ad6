"""Bytes between the host agent and one QEMU's socket: a queue, and silence while the guest freezes."""

from __future__ import annotations

import array
import asyncio
import fcntl
import socket
import termios
from collections import deque
from collections.abc import Callable

READ_AT_ONCE = 65_536
ROOM = 262_144  # bytes not yet sent above which senders of data wait
QUIESCE_S = 0.02
QUIESCE_LOOK_S = 0.0005


class GuestSocket:
    """A connected Unix socket, owned from then on; needs a running event loop.

    `received` is called with bytes as they come, `lost` once with why there will be no more.
    """

    def __init__(
        self,
        sock: socket.socket,
        received: Callable[[bytes], None],
        lost: Callable[[str], None],
    ) -> None:
        self._received, self._lost = received, lost
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._queue: deque[memoryview] = deque()
        self.queued = 0  # bytes
        self._roomy = asyncio.Event()
        self._roomy.set()
        self._quiet = self._waiting = self._closed = False
        sock.setblocking(False)
        self._loop.add_reader(sock, self._readable)

    def send(self, data: bytes) -> None:
        """Sends, or queues what the socket does not take now."""
        if self._closed or not data:
            return
        self._queue.append(memoryview(data))
        self.queued += len(data)
        if not self._waiting:
            self._flush()
        if self.queued > ROOM:
            self._roomy.clear()

    async def room(self) -> None:
        """Waits until at most ROOM bytes are queued: of all who wait, one after the other goes on."""
        while not self._roomy.is_set():
            await self._roomy.wait()

    def drop_queue(self) -> None:
        """Forgets what was not sent, though it may be the second half of a frame."""
        self._queue.clear()
        self.queued = 0
        self._roomy.set()

    async def quiesce(self) -> None:
        """Sends nothing more until `resume`; waits until the peer has read all that was sent.

        When it has not within 20 ms, the guest's own buffers are full, and none of the rest can reach
        its memory while it stands still.
        """
        self._quiet = True
        self._stop_waiting()
        deadline = self._loop.time() + QUIESCE_S
        # asked again and again, for the kernel tells nobody that a peer has read
        while not self._closed and self._unread() and self._loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(QUIESCE_LOOK_S)

    def resume(self) -> None:
        """Sends what was queued meanwhile, and all that follows."""
        self._quiet = False
        self._flush()

    def close(self) -> None:
        """Closes the socket. `lost` is not called."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock)
        self._stop_waiting()
        self.drop_queue()
        self._sock.close()
        self._received = self._lost = _unheard

    def _unread(self) -> int:
        unread = array.array("i", [0])
        fcntl.ioctl(
            self._sock, termios.TIOCOUTQ, unread
        )  # SIOCOUTQ: bytes that the peer has not read
        return unread[0]

    def _readable(self) -> None:
        try:
            data = self._sock.recv(READ_AT_ONCE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(f"the guest's channel broke: {error.strerror}")
            return
        if data:
            self._received(data)
        else:
            self._lose("the guest's channel was closed by its virtual machine")

    def _flush(self) -> None:
        self._stop_waiting()
        while self._queue and not self._quiet:
            try:
                sent = self._sock.send(self._queue[0])
            except (BlockingIOError, InterruptedError):
                self._waiting = True
                self._loop.add_writer(self._sock, self._flush)
                return
            except OSError:
                self.drop_queue()  # reading tells why
                return
            self.queued -= sent
            if sent == len(self._queue[0]):
                self._queue.popleft()
            else:
                self._queue[0] = self._queue[0][sent:]
            if self.queued <= ROOM:
                self._roomy.set()

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._waiting = False
            self._loop.remove_writer(self._sock)

    def _lose(self, why: str) -> None:
        lost = self._lost
        self.close()
        lost(why)


def _unheard(_: object) -> None:
    """In place of who heard of a socket until it was closed: neither keeps the other."""
