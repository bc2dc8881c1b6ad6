"""A server of names over real sockets on loopback: many clients, bad ones, and another server for names of others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import dns.flags
import dns.message
import dns.rcode
import pytest

from copper.dns import forward, server
from copper.dns.answers import Answers
from copper.dns.forward import Forwarder, belongs
from copper.dns.options import Address, bound
from tests.unit.dns_servers import ANYWHERE, WAIT_S, ask, served
from tests.unit.zones import LARGE, a_zone, asked, texts


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
