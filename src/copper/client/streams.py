"""The API's streams: one WebSocket with a file, a command or a console at the other end.

The protocol is the `websockets` library's without its I/O: one thread serves both directions and
whatever else its user waits for, so neither a full pipe nor a signal can stop the other direction.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from copper.client.http import authorization, connect, not_accepted, unreachable
from copper.client.problems import error_of, error_of_errno
from copper.client.target import Target
from copper.model.errors import CopperError
from copper.wire.problems import from_problem

if TYPE_CHECKING:
    from websockets.client import ClientProtocol
    from websockets.http11 import Response

CHUNK = 1 << 16  # bytes in one message
ENOUGH = 1 << 18  # bytes that wait to be sent: no more input is read until they are fewer
_OPEN_S = 30.0
_LARGEST = 1 << 24
_BROKEN = select.POLLERR | select.POLLHUP | select.POLLNVAL
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Lost(CopperError):
    """The stream broke off before the other end had said how it ended."""


class Stream:
    """One open stream. Nothing comes or goes but in `turn`, which every waiting method calls."""

    def __init__(self, sock: socket.socket, protocol: ClientProtocol) -> None:
        self._socket = sock
        self._protocol = protocol
        self._unsent = bytearray()
        self._partial: tuple[bool, bytearray] | None = None  # is it text; what came of it
        self._messages: deque[bytes | str] = deque()
        self._ended = False  # nothing more can come
        self._no_more_out = False
        self.response: Response | None = None

    # out

    def send(self, data: bytes) -> bool:
        """Data to the other end, kept here while it cannot take it; False when it is gone."""
        if not self._open:
            return False
        self._protocol.send_binary(data)
        self.flush()
        return True

    def tell(self, message: dict[str, Any]) -> bool:
        """A JSON message to the other end; as `send`."""
        if not self._open:
            return False
        self._protocol.send_text(json.dumps(message).encode())
        self.flush()
        return True

    @property
    def _open(self) -> bool:
        return self._protocol.state.name == "OPEN" and not self._no_more_out

    @property
    def has_room(self) -> bool:
        """Whether more may be sent; else a turn is due first."""
        return len(self._unsent) < ENOUGH or self._ended

    def flush(self) -> None:
        """Gives the system as much as it takes now."""
        for data in self._protocol.data_to_send():
            self._unsent += data
        while self._unsent and not self._no_more_out:
            try:
                del self._unsent[: self._socket.send(self._unsent)]
            except _NOT_YET:
                return
            except OSError:
                self._no_more_out = True  # what it still had to say may yet be read
                self._unsent.clear()

    # in

    def turn(
        self,
        others: Mapping[int, int] | None = None,
        timeout_s: float | None = None,
        *,
        reading: bool = True,
    ) -> dict[int, int]:
        """Waits for the socket or one of the other descriptors (poll's events), and serves the socket.

        Gives which of the others are ready, and what for. With `reading` false nothing is taken
        from the socket: whoever should take it on is behind.
        """
        poll = select.poll()
        for fd, events in (others or {}).items():
            poll.register(fd, events)
        wanted = select.POLLIN if reading and not self._ended else 0
        wanted |= select.POLLOUT if self._unsent else 0
        mine = self._socket.fileno()
        if wanted:
            poll.register(mine, wanted)
        decrypted = bool(wanted & select.POLLIN) and self._decrypted()
        if decrypted:
            timeout_s = 0  # poll does not know of what TLS has read already
        ready = dict(poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000))
        happened = ready.pop(mine, 0) | (select.POLLIN if decrypted else 0)
        if happened & select.POLLOUT:
            self.flush()
        if happened & (select.POLLIN | _BROKEN):
            self._read()
        return ready

    def _decrypted(self) -> bool:
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def _read(self) -> None:
        try:
            data = self._socket.recv(1 << 18)
        except _NOT_YET:
            return
        except OSError:
            data = b""
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
            self._ended = True
        for event in self._protocol.events_received():
            self._take(event)
        self.flush()
        if self._protocol.close_expected() and not self._partial:
            self._ended = True

    def _take(self, event: Any) -> None:
        from websockets.frames import Frame, Opcode
        from websockets.http11 import Response

        if isinstance(event, Response):
            self.response = event
            return
        if not isinstance(event, Frame) or event.opcode not in (
            *(Opcode.TEXT, Opcode.BINARY),
            Opcode.CONT,
        ):
            return
        if event.opcode != Opcode.CONT:
            self._partial = (event.opcode == Opcode.TEXT, bytearray())
        assert self._partial is not None  # the library has checked the order
        self._partial[1].extend(event.data)
        if event.fin:
            text, data = self._partial
            self._partial = None
            self._messages.append(data.decode(errors="replace") if text else bytes(data))

    def received(self) -> bytes | dict[str, Any] | None:
        """A message that has come, None when none has. Raises the error that it reports, or Lost."""
        if not self._messages:
            if self._ended:
                closed = self._protocol.close_rcvd
                reason = f": {closed.reason}" if closed and closed.reason else ""
                raise Lost(f"the connection to Copper was lost{reason}")
            return None
        message = self._messages.popleft()
        if isinstance(message, bytes):
            return message
        try:
            told = json.loads(message)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise Lost(f"Copper sent what is no message: {message[:40]!r}")
        if told.get("type") == "error":
            raise from_problem(told.get("problem"))
        return told

    def receive(self, timeout_s: float | None = None) -> bytes | dict[str, Any]:
        """Waits for the next message. Raises as `received` does, and TimeoutError."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (message := self.received()) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            self.turn(timeout_s=left)
        return message

    def messages(self) -> Iterator[bytes | dict[str, Any]]:
        """All messages up to and with `exit`."""
        while True:
            message = self.receive()
            yield message
            if isinstance(message, dict) and message.get("type") == "exit":
                return

    def close(self) -> None:
        """Says goodbye, without waiting for an answer."""
        if self._open:
            self._protocol.send_close(1000)
            self.flush()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self._socket.close()


@contextmanager
def open_stream(target: Target, path: str) -> Iterator[Stream]:
    """Opens the stream at `path` of the target; closes it at the end."""
    from websockets.client import ClientProtocol
    from websockets.uri import parse_uri

    scheme = "wss" if target.tls else "ws"
    host = f"[{target.host}]" if ":" in target.host else target.host
    uri = parse_uri(f"{scheme}://{host}:{target.port}{path}")
    protocol = ClientProtocol(uri, max_size=_LARGEST)
    try:
        sock = connect(target, _OPEN_S)
    except OSError as error:
        raise unreachable(error, target, _OPEN_S) from error
    with sock:
        stream = Stream(sock, protocol)
        try:
            sock.setblocking(False)
            opening = protocol.connect()
            opening.headers.update(authorization(target))
            protocol.send_request(opening)
            stream.flush()
            deadline = time.monotonic() + _OPEN_S
            while stream.response is None:
                if protocol.handshake_exc is not None or stream._ended:
                    raise ConnectionError(str(protocol.handshake_exc or "no answer"))
                if time.monotonic() >= deadline:
                    raise TimeoutError
                stream.turn(timeout_s=deadline - time.monotonic())
        except OSError as error:
            raise unreachable(error, target, _OPEN_S) from error
        if protocol.handshake_exc is not None:
            status, body = stream.response.status_code, bytes(stream.response.body or b"")
            raise not_accepted(target, body) if status == 401 else error_of(status, body)
        try:
            yield stream
        finally:
            stream.close()


def check_exit(message: dict[str, Any], what: str) -> None:
    """Raises the error that the last message of a transfer reports, if it does."""
    errno = int(message.get("errno") or 0)
    if errno or message.get("code") != 0:
        raise error_of_errno(errno, str(message.get("message") or f"{what} failed in the VM"))
