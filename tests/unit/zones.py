"""Zones of names as rows make them, who answers for them, and questions and answers as a client has them."""

from __future__ import annotations

from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rrset

from copper.dns.answers import Answers
from copper.dns.names import Zone

SERVER, OTHER = "192.0.2.1", "192.0.2.53"
LARGE = 100


def cluster(name: str, created: float = 1, egress: str = "none") -> dict[str, Any]:
    return {"name": name, "created": created, "image": "micro", "egress": egress}


def vm(
    name: str,
    state: str = "running",
    public: tuple[str, ...] = (),
    ip: str = "10.0.0.1",
    ip6: str = "",
    created: float = 2,
) -> dict[str, Any]:
    of, _, vmid = name.rpartition("-")
    row = {"name": name, "cluster": of, "vmid": int(vmid), "state": state, "created": created}
    return {**row, "public": list(public), "ip": ip, "ip6": ip6}


def zone(
    *vms: dict[str, Any],
    clusters: tuple[str, ...] = (),
    domain: str = "clusters",
    egress: tuple[str, ...] = (),
) -> Zone:
    """`egress`: the virtual clusters whose VMs may go anywhere."""
    made = Zone(domain)
    of = dict.fromkeys([*(row["cluster"] for row in vms), *clusters])
    made.replace([cluster(name, egress="open" if name in egress else "none") for name in of], vms)
    return made


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
