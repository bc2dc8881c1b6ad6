"""One DNS message in, one out: what each question is answered with, and never more than was asked for.

RFC 1035, with 2308 (what is not there), 6891 (EDNS), 8482 (ANY), 8906 (what all servers do) and 9619 (one question).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from copper.dns.kept import HEAD, Kept, usual_form
from copper.dns.names import MOST_ADDRESSES, NAME_SERVER, TTL_S, Labels, Meaning, Zone

LONGEST_QUERY = 1024  # bytes; a question with all options that are in use has some 400
LEAST_UDP = 512  # what everybody takes (RFC 1035)
MOST_UDP = 1232  # what passes everywhere in one piece (DNS flag day 2020)
MOST_TCP = 65535
TRANSFERS = (dns.rdatatype.AXFR, dns.rdatatype.IXFR)
_HEADER = struct.Struct("!HHHHHH")
_DO = dns.flags.DO
_IN = dns.rdataclass.IN


class Outside(Exception):
    """The question is for another server, if this one may ask it. `most`: bytes of an answer that the asker takes."""

    def __init__(self, most: int) -> None:
        super().__init__("not of this zone")
        self.most = most


class Answers:
    """The answers of one listener: to everybody, or to the virtual cluster `view`.

    `addresses` are the listener's own, which the zone's name server has. A question for others, when recursion is
    desired, is Outside: the server at `forward` is to be asked. It is refused without one, and to a virtual cluster
    that may not go there itself.
    """

    def __init__(
        self, zone: Zone, view: str = "", addresses: Sequence[str] = (), forward: str = ""
    ) -> None:
        self._zone, self._view, self._addresses = zone, view, tuple(addresses)
        self._forward = forward
        self._forwards = False
        self._kept = Kept()
        self._revision = -1
        self.ready = False  # until all names are known, nobody is told that one is not there

    def answer(self, asked: bytes, *, tcp: bool = False) -> bytes | None:
        """The answer to what came in one packet; None when there is to be none. Raises Outside."""
        if self._revision != self._zone.revision or not self.ready:
            self._kept.clear()
            self._revision = self._zone.revision
            self._forwards = bool(self._forward) and (
                not self._view or self._zone.reaches(self._view, self._forward)
            )
        if (usual := usual_form(asked, tcp)) is not None:
            if (answer := self._kept.find(asked, usual)) is not None:
                return answer
            if (answer := self._work_out(asked, tcp)) is not None and self.ready:
                self._kept.add(answer, usual)
            return answer
        return self._work_out(asked, tcp)

    def _work_out(self, asked: bytes, tcp: bool) -> bytes | None:
        if len(asked) < HEAD:
            return None
        _, flags, questions, answers, authorities, additional = _HEADER.unpack_from(asked)
        if flags & dns.flags.QR:
            return None  # two servers would answer each other for ever
        if dns.opcode.from_flags(flags) != dns.opcode.QUERY:
            return bare(asked, dns.rcode.NOTIMP)
        if (questions, answers, authorities) != (1, 0, 0) or additional > 2:
            return bare(asked, dns.rcode.FORMERR)
        if len(asked) > LONGEST_QUERY or question_end(asked) > len(asked):
            return bare(asked, dns.rcode.FORMERR)
        try:
            query = dns.message.from_wire(asked)
        except Exception:  # a library's parser over whatever comes: none of its errors is ours
            return bare(asked, dns.rcode.FORMERR)
        if len(query.question) != 1 or query.had_tsig:
            return bare(asked, dns.rcode.FORMERR)
        most = MOST_TCP if tcp else most_of(query)
        reply = dns.message.make_response(query, our_payload=MOST_UDP)
        if self._forwards:
            reply.flags |= dns.flags.RA
        if query.edns >= 0:
            reply.ednsflags |= query.ednsflags & _DO
        self._fill(reply, query, most)
        return packed(reply, most)

    def _fill(self, reply: dns.message.Message, query: dns.message.Message, most: int) -> None:
        """Raises Outside."""
        question = query.question[0]
        if query.edns > 0:
            reply.set_rcode(dns.rcode.BADVERS)
            return
        if question.rdclass != _IN or question.rdtype in TRANSFERS:
            reply.set_rcode(dns.rcode.REFUSED)
            return
        if not self.ready:
            reply.set_rcode(dns.rcode.SERVFAIL)
            return
        meaning = self._zone.find(_labels_of(question.name), self._view)
        if meaning is None:
            if self._forwards and query.flags & dns.flags.RD:
                raise Outside(most)
            reply.set_rcode(dns.rcode.REFUSED)
            return
        reply.flags |= dns.flags.AA
        found = self._found(question.name, question.rdtype, meaning) if meaning.exists else []
        if found:
            reply.answer.append(
                dns.rrset.from_rdata_list(question.name, TTL_S, found[:MOST_ADDRESSES])
            )
            return
        if not meaning.exists:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        soa = dns.rrset.from_rdata(_name(meaning.apex), TTL_S, self._soa())
        reply.authority.append(soa)

    def _found(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType, meaning: Meaning
    ) -> list[dns.rdata.Rdata]:
        """What a name that exists has of this type."""
        if kind == dns.rdatatype.ANY:
            return [_rdata(dns.rdatatype.HINFO, 'RFC8482 ""')]
        if kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
            six = kind == dns.rdatatype.AAAA
            addresses = self._addresses if meaning.server else meaning.addresses
            return [_rdata(kind, address) for address in addresses if (":" in address) == six]
        if kind == dns.rdatatype.PTR:
            return [_rdata(kind, f"{full}.") for full in meaning.names]
        if _labels_of(name) == meaning.apex:
            if kind == dns.rdatatype.SOA:
                return [self._soa()]
            if kind == dns.rdatatype.NS:
                return [_rdata(kind, f"{NAME_SERVER}.{'.'.join(self._zone.domain)}.")]
        return []

    def _soa(self) -> dns.rdata.Rdata:
        domain = ".".join(self._zone.domain)
        # the first three times are for secondary servers, and there are none
        times = f"{self._zone.revision & 0xFFFFFFFF} 3600 600 86400 {TTL_S}"
        return _rdata(dns.rdatatype.SOA, f"{NAME_SERVER}.{domain}. hostmaster.{domain}. {times}")


def bare(asked: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """A header alone that says what is wrong: never longer than what was asked."""
    number, flags = struct.unpack_from("!HH", asked)
    kept = flags & (0x7800 | dns.flags.RD)  # the opcode, and RD
    return _HEADER.pack(number, dns.flags.QR | kept | int(rcode), 0, 0, 0, 0)


def question_end(asked: bytes) -> int:
    """Where the one question ends, its name written out; beyond the end of what has none."""
    at = HEAD
    while at < len(asked) and (label := asked[at]):
        if label > 63:
            return len(asked) + 1
        at += label + 1
    return at + 5


def failed(asked: bytes) -> bytes:
    """That nobody could say; to a question that was parsed before."""
    flags = (asked[2] << 8 | asked[3]) & (dns.flags.RD | dns.flags.CD)
    flags |= dns.flags.QR | dns.flags.RA | dns.rcode.SERVFAIL
    return with_question(asked, flags)


def truncated(asked: bytes, answer: bytes) -> bytes:
    """That the answer is there over TCP."""
    return with_question(asked, answer[2] << 8 | answer[3] | dns.flags.TC)


def with_question(asked: bytes, flags: int) -> bytes:
    """A header with these flags, and the question as it was asked."""
    head = _HEADER.pack(asked[0] << 8 | asked[1], flags, 1, 0, 0, 0)
    return head + asked[HEAD : question_end(asked)]


def most_of(query: dns.message.Message) -> int:
    """How large an answer over UDP may be, in bytes."""
    if query.edns < 0:
        return LEAST_UDP
    return min(max(query.payload, LEAST_UDP), MOST_UDP)


def packed(reply: dns.message.Message, most: int) -> bytes:
    """The message, or if it is larger than `most` one that sends the asker to TCP."""
    try:
        return reply.to_wire(max_size=most, want_shuffle=False)
    except dns.exception.TooBig:
        reply.answer.clear()
        reply.authority.clear()
        reply.additional.clear()
        reply.flags |= dns.flags.TC
        return reply.to_wire(max_size=most, want_shuffle=False)


@functools.lru_cache(1 << 16)
def _rdata(kind: dns.rdatatype.RdataType, text: str) -> dns.rdata.Rdata:
    return dns.rdata.from_text(_IN, kind, text)


@functools.lru_cache(1 << 12)
def _name(labels: Labels) -> dns.name.Name:
    return dns.name.Name([*(label.encode("latin-1") for label in labels), b""])


def _labels_of(name: dns.name.Name) -> Labels:
    # bytes.lower is ASCII's, as names are compared (RFC 4343)
    return tuple(label.lower().decode("latin-1") for label in name.labels[:-1])
