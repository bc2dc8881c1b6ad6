"""Answers that are kept: they are those that were worked out, until a name has another meaning."""

from __future__ import annotations

import dns.edns
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copper.dns.kept import Kept, usual_form
from copper.dns.names import Zone
from tests.unit.zones import LARGE, a_zone, asked, cluster, listener, texts, told, vm


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


def test_a_cluster_is_made_while_its_name_is_asked_for() -> None:
    of = Zone()
    answers = listener(of=of)
    assert told(answers, asked("new.clusters")).rcode() == dns.rcode.NXDOMAIN
    of.put("cluster", cluster("new"))
    assert told(answers, asked("new.clusters")).rcode() == dns.rcode.NOERROR
