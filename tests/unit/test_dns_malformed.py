"""DNS messages that are wrong: nothing breaks by them, neither who answers nor a server over real sockets.

COPPER_SOAK=1 has 100,000 of them instead of a few thousand.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import Iterator

import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copper.dns.answers import LEAST_UDP, LONGEST_QUERY, MOST_UDP, Outside
from tests.unit.dns_servers import WAIT_S, ask, served
from tests.unit.zones import LARGE, asked, listener, texts, told

SOAK = bool(os.environ.get("COPPER_SOAK"))
MESSAGES = 100_000 if SOAK else 6_000
PACKETS = 100_000 if SOAK else 4_000


def mutated(chance: random.Random) -> Iterator[bytes]:
    """Messages that are nearly right, and some that are noise."""
    good = [
        asked("web.clusters").to_wire(),
        asked("large", payload=1232).to_wire(),
        asked("large.clusters", "ANY", payload=4096).to_wire(),
        asked("1.0.18.198.in-addr.arpa", "PTR").to_wire(),
        asked("example.org").to_wire(),
        dns.message.make_query("clusters", "AXFR").to_wire(),
    ]
    while True:
        wire = bytearray(chance.choice(good))
        for _ in range(chance.randint(1, 6)):
            where = chance.randrange(len(wire)) if wire else 0
            match chance.randrange(7):
                case 0 if wire:
                    wire[where] = chance.randrange(256)
                case 1 if wire:
                    wire[where] ^= 1 << chance.randrange(8)
                case 2:
                    del wire[where:]
                case 3:
                    wire[where:where] = chance.randbytes(chance.randint(1, 20))
                case 4:
                    wire += wire[where:] * chance.randint(1, 8)
                case 5 if len(wire) > 12:
                    wire[4 + chance.randrange(8)] = chance.choice((0, 1, 2, 255))
                case 6 if len(wire) > 14:  # a pointer somewhere
                    wire[where : where + 2] = bytes(
                        (0xC0 | chance.randrange(64), chance.randrange(40))
                    )
        yield bytes(wire) if chance.random() > 0.1 else chance.randbytes(chance.randrange(1600))


def test_a_question_that_points_elsewhere_is_none() -> None:
    """Its name would be longer in an answer than it was in the question."""
    head = b"\1\2\1\0\0\1\0\0\0\0\0\0"
    for name in (b"\xc0\x04", b"\3web\xc0\x04", b"\xc0\x0c", b"\x40" + b"a" * 64 + b"\0"):
        wire = listener().answer(head + name + b"\0\1\0\1" + b"\0" * 400)
        assert wire == b"\1\2\x81\1" + bytes(8)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("view", ["", "web"])
def test_whatever_comes_nothing_breaks_and_no_answer_is_larger_than_asked_for(view: str) -> None:
    answers, chance = listener(view, forwards=True), random.Random(20261121)
    source = mutated(chance)
    seen: dict[str, int] = {}
    for _ in range(MESSAGES):
        wire = next(source)
        for tcp in (False, True):
            try:
                answer = answers.answer(wire, tcp=tcp)
            except Outside:
                seen["outside"] = seen.get("outside", 0) + 1
                continue
            if answer is None:
                assert len(wire) < 12 or wire[2] & 0x80
                seen["none"] = seen.get("none", 0) + 1
                continue
            assert answer[:2] == wire[:2]
            assert answer[2] & 0x80
            rcode = dns.rcode.to_text(dns.rcode.Rcode(answer[3] & 15))
            seen[rcode] = seen.get(rcode, 0) + 1
            if rcode in ("FORMERR", "NOTIMP"):
                assert len(answer) == 12 <= len(wire)
                continue
            query = dns.message.from_wire(wire)
            most = 65535 if tcp else LEAST_UDP if query.edns < 0 else max(query.payload, LEAST_UDP)
            assert len(answer) <= most
            assert len(answer) <= MOST_UDP or tcp
            assert len(wire) <= LONGEST_QUERY
            if answer[3] & 15 != dns.rcode.NOERROR or answer[6:8] == b"\0\0":
                dns.message.from_wire(answer)
    assert {"outside", "none", "NOERROR", "FORMERR", "NXDOMAIN", "REFUSED", "NOTIMP"} <= {*seen}
    after = told(answers, asked("large"), tcp=True)
    assert (after.rcode(), len(texts(after.answer))) == (dns.rcode.NOERROR, LARGE)


ANSWERS = listener()


@given(st.binary(max_size=2000))
def test_noise_is_answered_with_a_header_or_not_at_all(noise: bytes) -> None:
    answer = ANSWERS.answer(noise)
    assert answer is None or answer[:2] == noise[:2]


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
            for number in range(PACKETS // 100):
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
            assert answered > PACKETS // 4
        for _ in range(PACKETS // 200):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            wire = next(source)
            writer.write(len(wire).to_bytes(2, "big") + wire)
            with contextlib.suppress(OSError):
                writer.write_eof()
                await asyncio.wait_for(reader.read(), WAIT_S)
            writer.close()
        assert (await ask(port, "web")).rcode() == dns.rcode.NOERROR
    assert not caplog.records
