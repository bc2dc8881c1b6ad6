"""Questions about other names: asked of one other server, and of no one else."""

from __future__ import annotations

import asyncio
import secrets

import dns.flags

from copper.dns.answers import failed, question_end, truncated
from copper.dns.kept import HEAD
from copper.dns.options import Address

WAIT_S = 2.0  # for an answer; clients ask again after five
TRIES = 2
AT_ONCE = 256  # questions under way; more of them fail


class Forwarder:
    """Asks the server at an address, with a number and a port that nobody can guess."""

    def __init__(self, at: Address) -> None:
        self._at = at
        self._under_way = 0

    async def ask(self, asked: bytes, most: int, *, tcp: bool) -> bytes:
        """The other server's answer as it is, SERVFAIL for none; one larger than `most` sends the asker to TCP."""
        if self._under_way >= AT_ONCE:
            return failed(asked)
        self._under_way += 1
        try:
            sent = secrets.token_bytes(2) + asked[2:]
            for _ in range(1 if tcp else TRIES):
                try:
                    async with asyncio.timeout(WAIT_S):
                        answer = await (self._by_tcp(sent) if tcp else self._by_udp(sent))
                except (OSError, EOFError):  # TimeoutError is one
                    continue
                answer = asked[:2] + answer[2:]
                return answer if len(answer) <= most else truncated(asked, answer)
            return failed(asked)
        finally:
            self._under_way -= 1

    async def _by_udp(self, sent: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(
            lambda: _OneAnswer(sent), remote_addr=(self._at.host, self._at.port)
        )
        try:
            transport.sendto(sent)
            return await protocol.answer
        finally:
            transport.close()

    async def _by_tcp(self, sent: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self._at.host, self._at.port)
        try:
            writer.write(len(sent).to_bytes(2, "big") + sent)
            while True:
                answer = await reader.readexactly(
                    int.from_bytes(await reader.readexactly(2), "big")
                )
                if belongs(answer, sent):
                    return answer
        finally:
            writer.close()


class _OneAnswer(asyncio.DatagramProtocol):
    """Waits for the answer to one question; whatever else comes is not looked at."""

    def __init__(self, sent: bytes) -> None:
        self._sent = sent
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.answer.done() and belongs(data, self._sent):
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


def belongs(answer: bytes, sent: bytes) -> bool:
    """Whether it is an answer to what was sent: its number, and its question if it repeats one."""
    if len(answer) < HEAD or answer[:2] != sent[:2] or not answer[2] << 8 & dns.flags.QR:
        return False
    if answer[4:6] == b"\0\0":
        return answer[6:8] == b"\0\0"
    end = question_end(sent)
    return answer[4:6] == b"\0\1" and answer[HEAD:end].lower() == sent[HEAD:end].lower()
