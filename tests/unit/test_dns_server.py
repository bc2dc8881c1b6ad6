"""A server of names over real sockets on loopback: many clients, bad ones, other servers, and sockets that are lent.

COPPER_SOAK=1 has 100,000 malformed packets instead of a few thousand.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import pytest

from copper.dns import forward, server
from copper.dns.answers import Answers
from copper.dns.forward import Forwarder, belongs
from copper.dns.lend import borrowing, lending_socket, lent
from copper.dns.options import Address, Sockets, bound, options_of, parse_address
from copper.dns.server import Listener
from copper.model.errors import BadInput, Conflict
from copper.model.settings import Settings
from tests.unit.test_dns_answers import LARGE, a_zone, asked, listener, mutated, texts

COUNT = 100_000 if os.environ.get("COPPER_SOAK") else 4_000
ANYWHERE = Address("127.0.0.1", 0)
WAIT_S = 60.0


@contextlib.asynccontextmanager
async def served(
    answers: Answers | None = None, forwarder: Forwarder | None = None
) -> AsyncIterator[int]:
    """A server's port."""
    with bound(ANYWHERE) as sockets:
        made = answers or listener(forwards=forwarder is not None)
        async with Listener(made, forwarder).serving(sockets.udp, sockets.tcp):
            yield sockets.at.port


async def ask(port: int, name: str, kind: str = "A", *, tcp: bool = False) -> dns.message.Message:
    by = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    return await by(asked(name, kind), "127.0.0.1", port=port, timeout=WAIT_S)


async def test_one_name_over_udp_and_all_of_a_large_answer_over_tcp() -> None:
    async with served() as port:
        assert texts((await ask(port, "web")).answer) == ["198.18.0.1", "198.18.0.2"]
        short = await ask(port, "large")
        assert short.flags & dns.flags.TC
        assert not short.answer
        assert len(texts((await ask(port, "large", tcp=True)).answer)) == LARGE


async def test_many_ask_at_once() -> None:
    async with served() as port:
        tasks = [ask(port, f"large-{n % LARGE}", tcp=n % 4 == 0) for n in range(200)]
        for number, answer in enumerate(await asyncio.gather(*tasks)):
            assert texts(answer.answer) == [f"198.19.0.{number % LARGE}"]


async def test_questions_in_one_connection_are_answered_in_turn() -> None:
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        queries = [asked("web"), asked("nobody.clusters"), asked("large"), asked("example.org")]
        sent = b"".join(
            len(wire).to_bytes(2, "big") + wire for wire in (q.to_wire() for q in queries)
        )
        for at in range(len(sent)):  # byte by byte
            writer.write(sent[at : at + 1])
            await writer.drain()
        for query in queries:
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            assert dns.message.from_wire(await reader.readexactly(size)).id == query.id
        writer.close()


@pytest.mark.parametrize("sent", [b"\xff\xff", b"\0\0", b"\0\5short", b"\0\x0c" + b"\0\0\x80" * 4])
async def test_what_is_no_question_ends_a_connection(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "IDLE_S", 1000)  # not for its silence
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
        writer.close()
        assert (await ask(port, "web", tcp=True)).rcode() == dns.rcode.NOERROR


async def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_S", 0.05)
    async with served() as port:
        for sent in (b"", b"\0", b"\0\x20half"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
            writer.close()


async def test_a_client_that_takes_no_answers_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks and never reads: its answers do not pile up, and others are served."""
    monkeypatch.setattr(server, "IDLE_S", 0.2)
    async with served() as port:
        with socket.socket() as greedy:
            greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            greedy.connect(("127.0.0.1", port))
            greedy.setblocking(False)
            wire = asked("large").to_wire()
            loop, sent = asyncio.get_running_loop(), len(wire).to_bytes(2, "big") + wire
            with pytest.raises(OSError):
                async with asyncio.timeout(WAIT_S):
                    while True:  # until it is hung up on
                        await loop.sock_sendall(greedy, sent * 100)
        assert (await ask(port, "web", tcp=True)).rcode() == dns.rcode.NOERROR


async def test_too_many_connections_cost_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 4)
    async with served() as port, contextlib.AsyncExitStack() as open_:
        ends = []
        for _ in range(8):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            open_.callback(writer.close)
            query = asked("web").to_wire()
            writer.write(len(query).to_bytes(2, "big") + query)
            await reader.readexactly(2)  # it was taken on
            ends.append(reader)
        for reader in ends[:4]:
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), WAIT_S)
            assert reader.at_eof() or reader.exception()
        assert not any(reader.at_eof() for reader in ends[4:])


async def test_who_opens_too_many_connections_pays_for_them_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 4)
    query = asked("web").to_wire()
    async with served() as port, contextlib.AsyncExitStack() as open_:
        ends = []
        for host in ("127.0.0.2", *["127.0.0.3"] * 8):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0))
            open_.callback(writer.close)
            writer.write(len(query).to_bytes(2, "big") + query)
            await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            ends.append((reader, writer))
        reader, writer = ends[0]  # the first of all, and the only one of its address
        writer.write(len(query).to_bytes(2, "big") + query)
        async with asyncio.timeout(WAIT_S):
            assert await reader.readexactly(2)


@pytest.mark.timeout(1200)
async def test_malformed_packets_break_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """No crash, no answer larger than asked for, and who asks rightly meanwhile is answered."""
    source = mutated(random.Random(4))
    loop = asyncio.get_running_loop()
    async with served() as port:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(("127.0.0.1", port))
            mark = bytearray(asked("web").to_wire())
            answered = 0
            for number in range(COUNT // 100):
                for _ in range(99):
                    wire = next(source)
                    wire = b"\0\0" + wire[2:] if wire[:2] == b"\xff\xff" else wire
                    sock.send(wire)
                mark[:2] = b"\xff\xff"
                sock.send(mark)  # behind the others, so all of them were read
                async with asyncio.timeout(WAIT_S):
                    while (answer := await loop.sock_recv(sock, 70_000))[:2] != b"\xff\xff":
                        assert len(answer) <= 1232
                        answered += 1
                if number % 10 == 0:
                    assert (await ask(port, "web", tcp=True)).rcode() == dns.rcode.NOERROR
            assert answered > COUNT // 4
        for _ in range(COUNT // 200):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            wire = next(source)
            writer.write(len(wire).to_bytes(2, "big") + wire)
            with contextlib.suppress(OSError):
                writer.write_eof()
                await asyncio.wait_for(reader.read(), WAIT_S)
            writer.close()
        assert (await ask(port, "web")).rcode() == dns.rcode.NOERROR
    assert not caplog.records


async def test_an_error_of_ours_is_logged_and_the_next_question_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(Answers):
        def answer(self, asked: bytes, *, tcp: bool = False) -> bytes | None:
            if asked[:2] == b"\7\7":
                raise RuntimeError("a mistake")
            return super().answer(asked, tcp=tcp)

    failing = Failing(a_zone(), "", [])
    failing.ready = True
    async with served(failing) as port:
        bad = b"\7\7" + asked("web").to_wire()[2:]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(bad, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(len(bad).to_bytes(2, "big") + bad)
        assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
        writer.close()
        assert (await ask(port, "web")).rcode() == dns.rcode.NOERROR
    assert [record.message[:9] for record in caplog.records] == ["no answer"] * 2


# other servers' names


async def test_names_of_others_come_from_another_server_and_failures_are_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forward, "WAIT_S", 0.2)
    async with served() as far:
        async with served(forwarder=Forwarder(Address("127.0.0.1", far))) as port:
            for tcp in (False, True):
                # the other one has the same names: its word is passed on as it is
                assert (await ask(port, "example.org", tcp=tcp)).rcode() == dns.rcode.REFUSED
            assert texts((await ask(port, "web")).answer) == ["198.18.0.1", "198.18.0.2"]
    with bound(ANYWHERE) as silent:
        forwarder = Forwarder(silent.at)
        async with served(forwarder=forwarder) as port:
            for tcp in (False, True):
                assert (await ask(port, "example.org", tcp=tcp)).rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize("wrong", ["number", "question", "no answer", "short"])
async def test_only_the_answer_to_the_question_is_taken(wrong: str) -> None:
    with bound(ANYWHERE) as sockets:
        async with served(forwarder=Forwarder(sockets.at)) as port:
            asking = asyncio.create_task(ask(port, "Example.org"))
            loop = asyncio.get_running_loop()
            got, who = await loop.sock_recvfrom(sockets.udp, 2000)
            query = dns.message.from_wire(got)
            right = dns.message.make_response(query)
            false = dns.message.make_response(
                query if wrong != "question" else asked("evil.example")
            )
            false.set_rcode(dns.rcode.NXDOMAIN)
            false.id = query.id ^ (wrong == "number")
            wire = bytearray(false.to_wire())
            wire[2] &= 0x7F if wrong == "no answer" else 0xFF
            await loop.sock_sendto(sockets.udp, bytes(wire[:11] if wrong == "short" else wire), who)
            await loop.sock_sendto(sockets.udp, right.to_wire(), who)
            assert (await asking).rcode() == dns.rcode.NOERROR


async def test_a_large_answer_of_another_server_sends_the_asker_to_tcp() -> None:
    with bound(ANYWHERE) as sockets:
        async with served(forwarder=Forwarder(sockets.at)) as port:
            asking = asyncio.create_task(ask(port, "example.org"))
            loop = asyncio.get_running_loop()
            got, who = await loop.sock_recvfrom(sockets.udp, 2000)
            answer = dns.message.make_response(dns.message.from_wire(got))
            rrset = dns.rrset.from_text_list(
                "example.org.", 1, "IN", "A", [f"192.0.2.{n}" for n in range(100)]
            )
            answer.answer.append(rrset)
            await loop.sock_sendto(sockets.udp, answer.to_wire(), who)
            short = await asking
    assert short.flags & dns.flags.TC
    assert not short.answer


def test_an_answer_belongs_to_one_question() -> None:
    query = asked("Example.org")
    wire = query.to_wire()
    assert not belongs(wire, wire)
    answer = dns.message.make_response(query).to_wire()
    assert belongs(answer, wire)
    assert belongs(answer.lower(), wire) == (answer[:2] == answer.lower()[:2])
    assert belongs(answer[:4] + b"\0\0" + answer[6:12], wire)  # an error, without the question
    assert not belongs(answer, asked("example.com").to_wire())


# sockets that are lent


@contextlib.asynccontextmanager
async def borrower(listening: socket.socket) -> AsyncIterator[None]:
    """A server of names that serves what is lent there."""

    @contextlib.asynccontextmanager
    async def serving(cluster: str, udp: socket.socket, tcp: socket.socket) -> AsyncIterator[None]:
        async with Listener(listener(cluster), None).serving(udp, tcp):
            yield

    async with borrowing(listening, serving):
        yield


async def until(is_so: Callable[[], bool]) -> None:
    """Lets all others go on until it is so."""
    async with asyncio.timeout(WAIT_S):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0)


def descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


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


# where it answers


def test_one_port_for_both_and_what_is_taken_is_said() -> None:
    with bound(ANYWHERE) as made:
        at = made.at
        assert made.udp.getsockname() == made.tcp.getsockname()
        with pytest.raises(Conflict, match=rf"names at {at}: Address already in use"), bound(at):
            pass
    with bound(at) as again:  # it is free
        assert again.at == at


def test_a_port_that_is_taken_for_tcp_alone_is_not_taken_for_udp() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        at = Address("127.0.0.1", other.getsockname()[1])
        with pytest.raises(Conflict), bound(at):
            pass
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind((at.host, at.port))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1:53", "127.0.0.1:53"),
        ("[::1]:10053", "[::1]:10053"),
        ("[2001:DB8:0::1]:1", "[2001:db8::1]:1"),
    ],
)
def test_addresses_are_read_and_shown(text: str, shown: str) -> None:
    assert str(parse_address("X", text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "53", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "::1:53"),
        *("[127.0.0.1]:53", "localhost:53", "[fe80::1%lo]:53", "127.0.0.1:-1", "[::1", "127.1:53"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="COPPER_DNS="):
        parse_address("COPPER_DNS", text)


@pytest.mark.parametrize(
    "domain", [".", "a..b", "-a", "a-", "a b", "*", "ä", "a" * 64, ".".join(["a" * 50] * 5), "a_b"]
)
def test_what_is_no_domain_is_refused(domain: str) -> None:
    with pytest.raises(BadInput, match="COPPER_DOMAIN="):
        options_of(Settings(domain=domain))


def test_settings_of_the_server_of_names() -> None:
    given = options_of(Settings())
    assert (str(given.at), given.domain, given.forward) == ("127.0.0.1:10053", "clusters", None)
    given = options_of(Settings(dns="off", domain="VMs.Example.org.", dns_forward="192.0.2.1:53"))
    assert (given.at, given.domain) == (None, "vms.example.org")
    assert str(given.forward) == "192.0.2.1:53"
    with pytest.raises(BadInput, match="is COPPER_DNS"):
        options_of(Settings(dns_forward="127.0.0.1:10053"))
    with pytest.raises(BadInput, match="COPPER_DNS"):
        options_of(Settings(dns="[::]:53"))
