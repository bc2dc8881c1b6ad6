"""DNS messages in and out, as bytes: read by a library, and thrown at by chance.

COPPER_SOAK=1 has 100,000 malformed messages instead of a few thousand.
"""

from __future__ import annotations

import ipaddress
import os
import random
from collections.abc import Iterator

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copper.dns.answers import LEAST_UDP, LONGEST_QUERY, MOST_UDP, Answers, Outside
from copper.dns.kept import Kept, usual_form
from copper.dns.names import MOST_ADDRESSES, Zone
from tests.unit.test_dns_names import cluster, vm, zone

SERVER, OTHER = "192.0.2.1", "192.0.2.53"
COUNT = 100_000 if os.environ.get("COPPER_SOAK") else 6_000
LARGE = 100


def a_zone() -> Zone:
    return zone(
        vm("web-0", public=("198.18.0.1", "2001:db8::1"), ip="10.0.0.1"),
        vm("web-1", public=("198.18.0.2",), ip="10.0.0.2"),
        vm("web-2", "paused", public=("198.18.0.3",)),
        *(vm(f"large-{n}", public=(f"198.19.0.{n}",)) for n in range(LARGE)),
        clusters=("empty",),
        egress=("web",),
    )


def listener(view: str = "", forwards: bool = False, of: Zone | None = None) -> Answers:
    answers = Answers(of or a_zone(), view, [SERVER], OTHER if forwards else "")
    answers.ready = True
    return answers


def asked(
    name: str,
    kind: str = "A",
    *,
    payload: int | None = None,
    options: tuple[dns.edns.Option, ...] = (),
) -> dns.message.QueryMessage:
    query = dns.message.make_query(name, kind)
    if payload is not None:
        query.use_edns(0, payload=payload, options=list(options))
    return query


def told(answers: Answers, query: dns.message.Message, *, tcp: bool = False) -> dns.message.Message:
    """The answer as a client reads it, which also checks that it is one to the query."""
    wire = answers.answer(query.to_wire(), tcp=tcp)
    assert wire is not None
    message = dns.message.from_wire(wire)
    assert message.id == query.id
    assert message.flags & dns.flags.QR
    assert message.question == query.question or not message.question
    return message


def texts(rrsets: list[dns.rrset.RRset]) -> list[str]:
    return sorted(str(rdata) for rrset in rrsets for rdata in rrset)


SOA = "a.ns.clusters. hostmaster.clusters."


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("payload", [None, 512, 1232, 4096])
@pytest.mark.parametrize(
    ("name", "kind", "wanted"),
    [
        ("web.clusters", "A", ["198.18.0.1", "198.18.0.2"]),
        ("WEB.Clusters", "A", ["198.18.0.1", "198.18.0.2"]),
        ("web", "A", ["198.18.0.1", "198.18.0.2"]),
        ("web.clusters", "AAAA", ["2001:db8::1"]),
        ("web-1.clusters", "A", ["198.18.0.2"]),
        ("1.0.18.198.in-addr.arpa", "PTR", ["web-0.clusters."]),
        ("clusters", "NS", ["a.ns.clusters."]),
        ("a.ns.clusters", "A", [SERVER]),
        ("web", "NS", ["a.ns.clusters."]),
        ("web", "ANY", ['"RFC8482" ""']),
        ("web.clusters", "ANY", ['"RFC8482" ""']),
    ],
)
def test_what_is_there(
    name: str, kind: str, wanted: list[str], payload: int | None, tcp: bool
) -> None:
    message = told(listener(), asked(name, kind, payload=payload), tcp=tcp)
    assert message.rcode() == dns.rcode.NOERROR
    assert message.flags & dns.flags.AA
    assert not message.flags & (dns.flags.TC | dns.flags.RA)
    assert texts(message.answer) == wanted
    assert [rrset.ttl for rrset in message.answer] == [0]
    assert not message.authority
    assert (message.edns >= 0) == (payload is not None)


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "apex"),
    [
        ("web-1.clusters", "AAAA", dns.rcode.NOERROR, "clusters."),
        ("web-2.clusters", "A", dns.rcode.NOERROR, "clusters."),
        ("empty.clusters", "A", dns.rcode.NOERROR, "clusters."),
        ("web.clusters", "HTTPS", dns.rcode.NOERROR, "clusters."),
        ("web.clusters", "MX", dns.rcode.NOERROR, "clusters."),
        ("web.clusters", "TYPE65280", dns.rcode.NOERROR, "clusters."),
        ("web.clusters", "SOA", dns.rcode.NOERROR, "clusters."),
        ("clusters", "A", dns.rcode.NOERROR, "clusters."),
        ("ns.clusters", "A", dns.rcode.NOERROR, "clusters."),
        ("web-1", "AAAA", dns.rcode.NOERROR, "web-1."),
        ("1.0.18.198.in-addr.arpa", "A", dns.rcode.NOERROR, "1.0.18.198.in-addr.arpa."),
        ("nobody.clusters", "A", dns.rcode.NXDOMAIN, "clusters."),
        ("nobody.clusters", "ANY", dns.rcode.NXDOMAIN, "clusters."),
        ("x.web.clusters", "A", dns.rcode.NXDOMAIN, "clusters."),
    ],
)
def test_what_is_not_there_is_said_with_the_soa(
    name: str, kind: str, rcode: dns.rcode.Rcode, apex: str
) -> None:
    """The SOA's last number and its time to live are how long it may be believed (RFC 2308): not at all."""
    for _ in range(2):  # worked out, and kept
        message = told(listener(), asked(name, kind))
        assert (message.rcode(), message.answer) == (rcode, [])
        assert message.flags & dns.flags.AA
        (soa,) = message.authority
        assert (str(soa.name), soa.ttl, str(soa[0]).startswith(SOA)) == (apex, 0, True)
        assert soa[0].minimum == 0


@pytest.mark.parametrize("name", ["example.org", "nobody", ".", "9.0.18.198.in-addr.arpa"])
def test_what_is_of_others_is_refused(name: str) -> None:
    message = told(listener(), asked(name))
    assert message.rcode() == dns.rcode.REFUSED
    assert not message.flags & dns.flags.AA
    assert not message.answer + message.authority


def test_what_is_of_others_is_forwarded_only_when_recursion_is_desired() -> None:
    answers = listener(forwards=True)
    query = asked("example.org", payload=900)
    with pytest.raises(Outside) as outside:
        answers.answer(query.to_wire())
    assert outside.value.most == 900
    query.flags &= ~dns.flags.RD
    assert told(answers, query).rcode() == dns.rcode.REFUSED
    assert told(answers, asked("nobody.clusters")).rcode() == dns.rcode.NXDOMAIN
    assert told(answers, asked("web")).flags & dns.flags.RA


def test_who_may_not_go_to_the_other_server_is_told_nothing_of_it() -> None:
    of = a_zone()
    web, empty = listener("web", forwards=True, of=of), listener("empty", forwards=True, of=of)
    for _ in range(2):  # the second time it is known
        with pytest.raises(Outside):
            web.answer(asked("example.org").to_wire())
        refused = told(empty, asked("example.org"))
        assert (refused.rcode(), refused.flags & dns.flags.RA) == (dns.rcode.REFUSED, 0)
    assert told(empty, asked("web")).rcode() == dns.rcode.NOERROR
    of.put("cluster", cluster("empty", egress=f"198.51.100.0/24,{OTHER}/32"))
    of.put("cluster", cluster("web"))
    with pytest.raises(Outside):
        empty.answer(asked("example.org").to_wire())
    assert told(web, asked("example.org")).rcode() == dns.rcode.REFUSED
    of.delete("cluster", "empty")
    assert told(empty, asked("example.org")).rcode() == dns.rcode.REFUSED


def test_no_other_server_is_asked_whose_a_private_address_is() -> None:
    answers = listener("web", forwards=True)
    for name in ("9.0.0.10.in-addr.arpa", ipaddress.ip_address("fd00:c::9").reverse_pointer):
        answer = told(answers, asked(name, "PTR"))
        assert (answer.rcode(), answer.flags & dns.flags.AA) == (dns.rcode.NXDOMAIN, dns.flags.AA)
        assert name.endswith(str(answer.authority[0].name).rstrip("."))
    with pytest.raises(Outside):
        answers.answer(asked("9.0.0.11.in-addr.arpa", "PTR").to_wire())
    with pytest.raises(Outside):  # to all others it is an address like any other
        listener(forwards=True).answer(asked("9.0.0.10.in-addr.arpa", "PTR").to_wire())


def test_inside_a_virtual_cluster_its_own_addresses_are_private() -> None:
    assert texts(told(listener("web"), asked("web")).answer) == ["10.0.0.1", "10.0.0.2"]
    assert texts(told(listener("empty"), asked("web")).answer) == ["198.18.0.1", "198.18.0.2"]
    ptr = told(listener("web"), asked("2.0.0.10.in-addr.arpa", "PTR"))
    assert texts(ptr.answer) == ["web-1.clusters."]


@pytest.mark.parametrize("kind", ["AXFR", "IXFR"])
def test_zones_are_not_transferred(kind: str) -> None:
    query = dns.message.make_query("clusters", kind)
    assert told(listener(), query, tcp=True).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("rdclass", ["CH", "HS", "NONE", "ANY", "CLASS65280"])
def test_other_classes_are_refused(rdclass: str) -> None:
    query = dns.message.make_query("web", "A", rdclass)
    assert told(listener(), query).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("opcode", [o for o in range(16) if o != dns.opcode.QUERY])
def test_other_opcodes_are_not_implemented(opcode: int) -> None:
    wire = bytearray(asked("web").to_wire())
    wire[2] = opcode << 3 | 1
    answer = listener().answer(bytes(wire))
    assert answer is not None
    assert (len(answer), answer[:2]) == (12, bytes(wire[:2]))
    assert (answer[2] >> 3 & 15, answer[3] & 15) == (opcode, dns.rcode.NOTIMP)


def test_before_names_are_known_nobody_is_told_that_there_are_none() -> None:
    answers = Answers(Zone(), "", [SERVER])
    assert told(answers, asked("web.clusters")).rcode() == dns.rcode.SERVFAIL
    answers.ready = True
    assert told(answers, asked("web.clusters")).rcode() == dns.rcode.NXDOMAIN


# EDNS, and how large an answer may be


def test_another_version_of_edns_is_told_ours() -> None:
    query = asked("web")
    query.use_edns(1)
    message = told(listener(), query)
    assert (message.rcode(), message.edns, message.answer) == (dns.rcode.BADVERS, 0, [])


def test_do_comes_back_and_options_do_not() -> None:
    cookie = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"8 bytes!")
    query = asked("web", payload=1232, options=(cookie,))
    assert told(listener(), query).ednsflags == 0
    query.want_dnssec()
    message = told(listener(), query)
    assert (message.ednsflags, message.options) == (dns.flags.DO, ())
    assert message.payload == MOST_UDP


@pytest.mark.parametrize("payload", [None, 0, 100, 511, 512, 513, 1000, 1231, 1232, 1233, 65535])
@pytest.mark.parametrize("name", ["web", "large", "large.clusters"])
def test_an_answer_is_as_large_as_the_asker_takes(name: str, payload: int | None) -> None:
    most = min(max(payload or 0, LEAST_UDP), MOST_UDP)
    answers = listener()
    query = asked(name, payload=payload)
    whole = answers.answer(query.to_wire(), tcp=True)
    assert whole is not None
    for _ in range(2):
        wire = answers.answer(query.to_wire())
        assert wire is not None
        assert len(wire) <= most
        message = told(answers, query)
        assert bool(message.flags & dns.flags.TC) == (len(whole) > most)
        assert bool(message.answer) == (len(whole) <= most)
    assert len(texts(told(answers, query, tcp=True).answer)) == (2 if name == "web" else LARGE)


def test_no_answer_over_udp_is_in_several_pieces() -> None:
    wire = listener().answer(asked("large", payload=65535).to_wire())
    assert wire is not None
    assert MOST_UDP == 1232
    assert dns.message.from_wire(wire).flags & dns.flags.TC


def test_a_question_that_points_elsewhere_is_none() -> None:
    """Its name would be longer in an answer than it was in the question."""
    head = b"\1\2\1\0\0\1\0\0\0\0\0\0"
    for name in (b"\xc0\x04", b"\3web\xc0\x04", b"\xc0\x0c", b"\x40" + b"a" * 64 + b"\0"):
        wire = listener().answer(head + name + b"\0\1\0\1" + b"\0" * 400)
        assert wire == b"\1\2\x81\1" + bytes(8)


def test_a_name_with_more_addresses_than_a_message_holds_has_the_first_of_them() -> None:
    rows = [
        vm(
            f"a-{n}",
            public=(f"198.{18 + n // 65536}.{n // 256 % 256}.{n % 256}", f"2001:db8::{n:x}"),
        )
        for n in range(MOST_ADDRESSES + 500)
    ]
    answers = listener(of=zone(*rows))
    for kind, last in (("A", "198.18.7.207"), ("AAAA", "2001:db8::7cf")):
        (rrset,) = told(answers, asked("a", kind), tcp=True).answer
        assert len(rrset) == MOST_ADDRESSES == 2000
        assert str(rrset[-1]) == last


# answers that are kept


@pytest.mark.parametrize("payload", [None, 1232])
@pytest.mark.parametrize("kind", ["A", "AAAA", "MX", "ANY", "SOA", "TXT"])
@pytest.mark.parametrize("name", ["web.clusters", "web", "web-1", "nobody.clusters", "example.org"])
def test_a_kept_answer_is_the_one_that_was_worked_out(
    name: str, kind: str, payload: int | None
) -> None:
    answers = listener()
    first = told(answers, asked(name, kind, payload=payload))
    for _ in range(5):
        again = told(answers, asked(name, kind, payload=payload))
        assert again.flags == first.flags
        assert (texts(again.answer), again.authority) == (texts(first.answer), first.authority)
        assert (again.edns, again.payload) == (first.edns, first.payload)


@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_a_name_comes_back_in_the_case_in_which_it_was_sent(upper: list[bool]) -> None:
    letters = "web.clusters"
    name = "".join(c.upper() if up else c for c, up in zip(letters, upper, strict=True))
    for answers in (listener(), CASES):
        query = asked(name)
        message = told(answers, query)
        assert str(message.question[0].name) == name + "."
        assert [str(rrset.name) for rrset in message.answer] == [name + "."]
        assert texts(message.answer) == ["198.18.0.1", "198.18.0.2"]


CASES = listener()


def test_another_address_is_first_each_time() -> None:
    answers = listener()
    query = asked("large").to_wire()
    answers.answer(query, tcp=True)
    firsts = {(answers.answer(query, tcp=True) or b"")[len(query) :][:16] for _ in range(LARGE)}
    assert len(firsts) == LARGE


def test_type_65_is_not_type_97() -> None:
    """Letters of a name are compared without their case; a type's number is none of them."""
    answers = listener()
    wire = bytearray(asked("web", "TYPE97").to_wire())
    for _ in range(2):
        for kind in (97, 65, 1):
            wire[-3] = kind
            answer = answers.answer(bytes(wire))
            assert answer is not None
            assert dns.message.from_wire(answer).question[0].rdtype == kind
            assert bool(answer[7]) == (kind == 1)


def test_a_change_is_seen_in_the_next_answer() -> None:
    of = a_zone()
    answers = listener(of=of)
    for _ in range(3):
        assert len(texts(told(answers, asked("web")).answer)) == 2
        of.put("vm", vm("web-7", public=("198.18.0.7",)))
        assert len(texts(told(answers, asked("web")).answer)) == 3
        assert told(answers, asked("web-7")).rcode() == dns.rcode.NOERROR
        of.delete("vm", "web-7")
        assert told(answers, asked("web-7.clusters")).rcode() == dns.rcode.NXDOMAIN


def test_a_bad_option_does_not_spoil_what_others_are_told() -> None:
    subnet = dns.edns.GenericOption(dns.edns.OptionType.ECS, b"\0")  # too short to be one
    bad = asked("web", payload=1232, options=(subnet,))
    answers = listener()
    wire = answers.answer(bad.to_wire())
    assert wire is not None
    assert wire[3] & 15 == dns.rcode.FORMERR
    assert told(answers, asked("web", payload=1232)).rcode() == dns.rcode.NOERROR


def test_what_is_kept_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("copper.dns.kept.MOST_BYTES", 100_000)
    keep = Kept()
    found = []
    for number in range(1000):
        query = asked(f"n{number}.clusters").to_wire()
        usual = usual_form(query, False)
        assert usual is not None
        keep.add(query, usual)  # as long as an answer would be, and of the same form
        assert keep.find(query, usual) == query
        assert keep.bytes <= 100_000
        found.append(keep.bytes)
    assert max(found) > 90_000


# what is no question


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


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("view", ["", "web"])
def test_whatever_comes_nothing_breaks_and_no_answer_is_larger_than_asked_for(view: str) -> None:
    answers, chance = listener(view, forwards=True), random.Random(20261121)
    source = mutated(chance)
    seen: dict[str, int] = {}
    for _ in range(COUNT):
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


@given(st.binary(max_size=2000))
def test_noise_is_answered_with_a_header_or_not_at_all(noise: bytes) -> None:
    answer = CASES.answer(noise)
    assert answer is None or answer[:2] == noise[:2]


def test_a_cluster_is_made_while_its_name_is_asked_for() -> None:
    of = Zone()
    answers = listener(of=of)
    assert told(answers, asked("new.clusters")).rcode() == dns.rcode.NXDOMAIN
    of.put("cluster", cluster("new"))
    assert told(answers, asked("new.clusters")).rcode() == dns.rcode.NOERROR
