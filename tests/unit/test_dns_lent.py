"""Sockets that are lent to the server of names: it serves whom they are for, and gives them back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from copper.dns.lend import borrowing, lending_socket, lent
from copper.dns.options import Sockets, bound
from copper.dns.server import Listener
from tests.unit.dns_servers import ANYWHERE, WAIT_S, ask, descriptors, until
from tests.unit.zones import listener, texts


@contextlib.asynccontextmanager
async def borrower(listening: socket.socket) -> AsyncIterator[None]:
    """A server of names that serves what is lent there."""

    @contextlib.asynccontextmanager
    async def serving(cluster: str, udp: socket.socket, tcp: socket.socket) -> AsyncIterator[None]:
        async with Listener(listener(cluster), None).serving(udp, tcp):
            yield

    async with borrowing(listening, serving):
        yield


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with bound(ANYWHERE) as made:
        yield made


async def test_lent_sockets_are_served_as_inside_and_again_after_a_restart(
    tmp_path: Path, sockets: Sockets
) -> None:
    path, port = tmp_path / "dns.sock", sockets.at.port
    async with lent(path, "web", sockets.udp, sockets.tcp) as there:
        assert not there.is_set()  # nobody is there yet
        for _ in range(2):  # the second time who starts the server has been started anew too
            with lending_socket(path) as listening:
                assert path.stat().st_mode & 0o777 == 0o600
                for _ in range(2):
                    async with borrower(listening):
                        async with asyncio.timeout(WAIT_S):
                            await there.wait()
                        for tcp in (False, True):
                            answer = await ask(port, "web", tcp=tcp)
                            assert texts(answer.answer) == ["10.0.0.1", "10.0.0.2"]
                    await until(lambda: not there.is_set())
                    waiting = asyncio.create_task(ask(port, "web-0"))  # asked while nobody serves
                async with borrower(listening):
                    assert texts((await waiting).answer) == ["10.0.0.1"]
            assert not path.exists()


async def test_sockets_are_given_back_when_who_lent_them_ends(
    tmp_path: Path, sockets: Sockets
) -> None:
    path = tmp_path / "dns.sock"
    with lending_socket(path) as listening:
        async with borrower(listening):
            before = descriptors()
            async with lent(path, "web", sockets.udp, sockets.tcp) as there:
                async with asyncio.timeout(WAIT_S):
                    await there.wait()
                assert descriptors() > before
            await until(lambda: descriptors() <= before)


@pytest.mark.parametrize(
    ("said", "fds"),
    [
        (b"", 2),
        (b"{}", 2),
        (b'{"cluster": 1}', 2),
        (b'{"cluster": ""}', 2),
        (b'{"cluster": "web"}', 0),
        (b'{"cluster": "web"}', 1),
        (b'{"cluster": "web"}', -2),  # the two in the wrong order
        (b"\xff" * 3000, 2),
    ],
)
async def test_who_lends_nothing_is_told_so(
    said: bytes, fds: int, tmp_path: Path, sockets: Sockets
) -> None:
    path = tmp_path / "dns.sock"
    with lending_socket(path) as listening:
        async with borrower(listening):
            pair = [sockets.udp.fileno(), sockets.tcp.fileno()]
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.setblocking(False)
                sock.connect(str(path))
                socket.send_fds(sock, [said], pair[::-1] if fds < 0 else pair[:fds])
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(WAIT_S):
                    answer = await loop.sock_recv(sock, 4096)
                assert answer != b"ok"
            async with lent(path, "web", sockets.udp, sockets.tcp) as there:
                async with asyncio.timeout(WAIT_S):
                    await there.wait()


async def test_a_socket_that_does_not_listen_is_not_taken(tmp_path: Path, sockets: Sockets) -> None:
    path = tmp_path / "dns.sock"
    with lending_socket(path) as listening:
        async with borrower(listening):
            with (
                socket.socket() as deaf,
                socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock,
            ):
                sock.setblocking(False)
                sock.connect(str(path))
                order = b'{"cluster": "web"}'
                socket.send_fds(sock, [order], [sockets.udp.fileno(), deaf.fileno()])
                async with asyncio.timeout(WAIT_S):
                    said = await asyncio.get_running_loop().sock_recv(sock, 4096)
    assert b"a TCP socket that listens" in said
