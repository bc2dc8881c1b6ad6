"""Sockets that DNS is answered on: UDP and TCP, in one thread."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import socket
from collections.abc import AsyncIterator

from copper.dns.answers import LONGEST_QUERY, MOST_TCP, Answers, Outside
from copper.dns.forward import Forwarder

log = logging.getLogger(__name__)

BATCH = 64  # packets before others have their turn
IDLE_S = 10.0  # how long a connection may be silent, and an asker may take to take an answer
# at once; one more and, of whoever has most of them, the one that was opened first is closed
CONNECTIONS = 256


class Listener:
    """One address: its two sockets, and what is answered there."""

    def __init__(self, answers: Answers, forwarder: Forwarder | None) -> None:
        self._answers, self._forwarder = answers, forwarder
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: dict[asyncio.StreamWriter, str] = {}  # and whose address is at the other end

    @contextlib.asynccontextmanager
    async def serving(self, udp: socket.socket, tcp: socket.socket) -> AsyncIterator[None]:
        """Answers until the end of the block. The sockets stay their owner's, and open."""
        loop = asyncio.get_running_loop()
        udp.setblocking(False)
        # asyncio closes what it listens on; the connections that wait at the socket stay with its owner
        own = tcp.dup()
        server = await asyncio.start_server(self._connected, sock=own, limit=2 * LONGEST_QUERY)
        loop.add_reader(udp, self._readable, udp)
        try:
            yield
        finally:
            loop.remove_reader(udp)
            server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _readable(self, udp: socket.socket) -> None:
        for _ in range(BATCH):
            try:
                asked, who = udp.recvfrom(LONGEST_QUERY + 1)
            except (
                OSError
            ):  # nothing more, or the network's word about an answer that did not arrive
                return
            try:
                answer = self._answers.answer(asked)
            except Outside as outside:
                self._start(self._forward(udp, asked, who, outside.most))
                continue
            except Exception:
                log.exception("no answer to %s", asked[:LONGEST_QUERY].hex())
                continue
            if answer is not None:
                _send(udp, answer, who)

    async def _forward(self, udp: socket.socket, asked: bytes, who: object, most: int) -> None:
        assert self._forwarder is not None
        _send(udp, await self._forwarder.ask(asked, most, tcp=False), who)

    def _start(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._writers) >= CONNECTIONS:
            self._make_room()
        self._writers[writer] = str((writer.get_extra_info("peername") or [""])[0])
        writer.transport.set_write_buffer_limits(high=0)  # one answer at a time is under way
        try:
            while True:
                async with asyncio.timeout(IDLE_S):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    if size > LONGEST_QUERY:
                        return
                    asked = await reader.readexactly(size)
                try:
                    answer = self._answers.answer(asked, tcp=True)
                except Outside as outside:
                    assert self._forwarder is not None
                    answer = await self._forwarder.ask(asked, outside.most, tcp=True)
                if answer is None:
                    return
                assert len(answer) <= MOST_TCP
                writer.write(len(answer).to_bytes(2, "big") + answer)
                async with asyncio.timeout(IDLE_S):
                    await writer.drain()
        except (OSError, EOFError):  # it hung up, or was silent
            return
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("no answer over TCP")
        finally:
            self._writers.pop(writer, None)
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    def _make_room(self) -> None:
        ((busiest, _),) = collections.Counter(self._writers.values()).most_common(1)
        first = next(writer for writer, whose in self._writers.items() if whose == busiest)
        del self._writers[first]  # it is gone for whoever counts them next
        first.transport.abort()


def _send(udp: socket.socket, answer: bytes, who: object) -> None:
    with contextlib.suppress(OSError):  # a packet may be lost
        udp.sendto(answer, who)  # type: ignore[call-overload]
