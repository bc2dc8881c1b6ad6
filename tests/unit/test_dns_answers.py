"""DNS messages in and out, as bytes: what each question is told, read by a library."""

from __future__ import annotations

import ipaddress

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest

from copper.dns.answers import LEAST_UDP, MOST_UDP, Answers, Outside
from copper.dns.names import MOST_ADDRESSES, Zone
from tests.unit.zones import (
    LARGE,
    OTHER,
    SERVER,
    a_zone,
    asked,
    cluster,
    listener,
    texts,
    told,
    vm,
    zone,
)

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
