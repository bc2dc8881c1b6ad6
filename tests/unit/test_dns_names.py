"""What each name means, held against rows: the zone of names is pure, so hundreds of them are asked for here."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copper.dns.names import LIVE, Labels, Meaning, Zone, address_of
from tests.unit.zones import cluster, vm, zone


def find(of: Zone, name: str, view: str = "") -> Meaning | None:
    return of.find(tuple(name.split(".")), view)


def addresses(of: Zone, name: str, view: str = "") -> tuple[str, ...] | None:
    """What a name has; None for one that does not exist or is not of the zone."""
    meaning = find(of, name, view)
    return meaning.addresses if meaning is not None and meaning.exists else None


WEB = zone(
    vm("web-0", public=("198.18.0.1", "2001:db8::1"), ip="10.0.0.1", ip6="fd00:c::1"),
    vm("web-1", public=("198.18.0.2",), ip="10.0.0.2", ip6="fd00:c::2"),
    vm("web-2", public=(), ip="10.0.0.3"),
    vm("web-3", "paused", public=("198.18.0.4",), ip="10.0.0.4"),
    vm("web-4", "dead", public=("198.18.0.5",), ip="10.0.0.5"),
    vm("web-10", public=("198.18.0.9",), ip="10.0.0.11"),
    vm("db-0", public=("198.18.0.6",), ip="10.0.0.1"),
    clusters=("empty", "ns"),
)

PUBLIC = ("198.18.0.1", "2001:db8::1", "198.18.0.2", "198.18.0.9")
INSIDE = ("10.0.0.1", "fd00:c::1", "10.0.0.2", "fd00:c::2", "10.0.0.3", "10.0.0.11")


@pytest.mark.parametrize("name", ["web", "web.clusters"])
def test_a_virtual_cluster_is_all_its_vms_that_run_by_vmid(name: str) -> None:
    assert addresses(WEB, name) == PUBLIC


@pytest.mark.parametrize("suffix", ["", ".clusters"])
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("web-0", ("198.18.0.1", "2001:db8::1")),
        ("web-1", ("198.18.0.2",)),
        ("web-2", ()),  # no public address
        ("web-3", ()),  # it does not run
        ("web-4", None),  # it ended
        ("web-5", None),
        ("web-10", ("198.18.0.9",)),
        ("web-01", None),
        ("web-", None),
        ("db", ("198.18.0.6",)),
        ("db-0", ("198.18.0.6",)),
        ("empty", ()),
        ("empty-0", None),
        ("nobody", None),
    ],
)
def test_a_name_alone_and_in_the_domain(
    name: str, suffix: str, wanted: tuple[str, ...] | None
) -> None:
    assert addresses(WEB, name + suffix) == wanted


@pytest.mark.parametrize(
    ("view", "name", "wanted"),
    [
        ("web", "web", INSIDE),
        ("web", "web.clusters", INSIDE),
        ("web", "web-2", ("10.0.0.3",)),
        ("web", "web-3", ()),
        ("web", "db", ("198.18.0.6",)),
        ("db", "db-0", ("10.0.0.1",)),
        ("db", "web-0", ("198.18.0.1", "2001:db8::1")),
        ("empty", "web", PUBLIC),
        ("", "web", PUBLIC),
    ],
)
def test_inside_ones_own_are_private(view: str, name: str, wanted: tuple[str, ...]) -> None:
    assert addresses(WEB, name, view) == wanted


@pytest.mark.parametrize(
    "name",
    [
        *("org", "www.example.org", "clusters.org", "notclusters", "x.notclusters"),
        *("arpa", "in-addr.arpa", "18.198.in-addr.arpa", "1.2.18.198.in-addr.arpa"),
        *("1.0.0.10.in-addr.arpa", "3.0.0.10.in-addr.arpa"),  # private to those inside
        *("4.0.18.198.in-addr.arpa", "5.0.18.198.in-addr.arpa"),  # paused, ended
        *("9.0.0.18.198.in-addr.arpa", "01.0.18.198.in-addr.arpa", "1.0.18.999.in-addr.arpa"),
        *("web.", ".web", "web.clusters.org"),
    ],
)
def test_what_is_of_others_is_not_of_this_zone(name: str) -> None:
    assert find(WEB, name) is None


@pytest.mark.parametrize(
    ("view", "address", "wanted"),
    [
        ("", "198.18.0.1", ("web-0.clusters",)),
        ("", "2001:db8::1", ("web-0.clusters",)),
        ("", "198.18.0.9", ("web-10.clusters",)),
        ("web", "198.18.0.6", ("db-0.clusters",)),
        ("web", "10.0.0.1", ("web-0.clusters",)),
        ("db", "10.0.0.1", ("db-0.clusters",)),
        ("web", "fd00:c::2", ("web-1.clusters",)),
        ("db", "fd00:c::2", ()),
        ("db", "10.0.0.2", ()),
        ("", "10.0.0.1", ()),
    ],
)
def test_addresses_have_names(view: str, address: str, wanted: Labels) -> None:
    meaning = find(WEB, ipaddress.ip_address(address).reverse_pointer, view)
    assert (meaning.names if meaning else ()) == wanted


@pytest.mark.parametrize(
    ("name", "exists"),
    [
        ("10.in-addr.arpa", True),
        ("0.0.10.in-addr.arpa", True),
        ("1.0.0.10.in-addr.arpa", True),
        ("200.0.0.10.in-addr.arpa", False),
        ("254.0.0.10.in-addr.arpa", False),
        (ipaddress.ip_address("fd00:c::1").reverse_pointer, True),
        (ipaddress.ip_address("fd00:c::99").reverse_pointer, False),
        (ipaddress.ip_address("fd00:c::").reverse_pointer[32:], True),
    ],
)
def test_inside_no_private_address_is_of_another_zone(name: str, exists: bool) -> None:
    meaning = find(WEB, name, "web")
    assert meaning is not None and meaning.exists == exists
    assert find(WEB, name) is None


@pytest.mark.parametrize("address", ["11.0.0.1", "100.0.0.10", "fd00:d::1", "fd00:c:0:1::1"])
def test_inside_other_addresses_are_of_other_zones(address: str) -> None:
    assert find(WEB, ipaddress.ip_address(address).reverse_pointer, "web") is None


@pytest.mark.parametrize(
    ("egress", "address", "wanted"),
    [
        ("open", "192.0.2.53", True),
        ("open", "2001:db8::53", True),
        ("none", "192.0.2.53", False),
        ("192.0.2.0/24", "192.0.2.53", True),
        ("198.51.100.0/24,192.0.2.53/32", "192.0.2.53", True),
        ("198.51.100.0/24,2001:db8::/32", "192.0.2.53", False),
        ("198.51.100.0/24,2001:db8::/32", "2001:db8::53", True),
    ],
)
def test_where_a_virtual_cluster_may_go(egress: str, address: str, wanted: bool) -> None:
    of = Zone()
    of.put("cluster", cluster("web", egress=egress))
    assert of.reaches("web", address) == wanted
    before = of.revision
    of.put("cluster", cluster("web", egress="none"))
    assert not of.reaches("web", address)
    assert (of.revision > before) == (egress != "none")
    assert not of.reaches("nobody", address)


def test_the_domain_is_an_apex_and_its_server_has_a_name_that_no_cluster_can_have() -> None:
    assert find(WEB, "clusters") == Meaning(("clusters",))
    assert find(WEB, "a.ns.clusters") == Meaning(("clusters",), server=True)
    assert find(WEB, "ns.clusters") == Meaning(("clusters",))
    without = zone(vm("web-0"))
    assert find(without, "ns.clusters") == Meaning(("clusters",))  # there is a name below it
    assert find(without, "ns") is None


@pytest.mark.parametrize(
    "name", ["x.web.clusters", "b.ns.clusters", "a.a.ns.clusters", "-.clusters"]
)
def test_there_is_nothing_below_a_name(name: str) -> None:
    assert find(WEB, name) == Meaning(("clusters",), exists=False)


def test_a_domain_of_several_labels() -> None:
    deep = zone(vm("web-0", public=("198.18.0.1",)), domain="vms.example.org")
    assert addresses(deep, "web.vms.example.org") == ("198.18.0.1",)
    assert addresses(deep, "web") == ("198.18.0.1",)
    for name in ("web.example.org", "example.org", "org", "web.clusters"):
        assert find(deep, name) is None
    meaning = find(deep, "1.0.18.198.in-addr.arpa")
    assert meaning is not None
    assert meaning.names == ("web-0.vms.example.org",)


def test_whoever_was_first_keeps_a_name() -> None:
    """Nobody takes the name of another's VM by making a virtual cluster that is called so."""
    made = Zone()
    made.put("cluster", cluster("web", 1))
    made.put("vm", vm("web-3", public=("198.18.0.1",), created=2))
    made.put("cluster", cluster("web-3", 3))
    made.put("vm", vm("web-3-0", public=("198.18.0.2",), created=4))
    assert addresses(made, "web-3") == ("198.18.0.1",)
    assert addresses(made, "web-3-0") == ("198.18.0.2",)
    assert addresses(made, "web") == ("198.18.0.1",)
    made.delete("vm", "web-3")
    assert addresses(made, "web-3") == ("198.18.0.2",)
    made.put("vm", vm("web-3", public=("198.18.0.3",), created=5))
    assert addresses(made, "web-3") == ("198.18.0.2",)


def test_an_address_that_goes_from_one_vm_to_another() -> None:
    made = zone(vm("a-0", public=("198.18.0.1",)))
    reverse = "1.0.18.198.in-addr.arpa"
    made.put("vm", vm("b-0", public=("198.18.0.1",)))
    meaning = find(made, reverse)
    assert meaning is not None
    assert meaning.names == ("a-0.clusters", "b-0.clusters")
    made.delete("vm", "a-0")
    meaning = find(made, reverse)
    assert meaning is not None
    assert meaning.names == ("b-0.clusters",)
    made.delete("vm", "b-0")
    assert find(made, reverse) is None


def test_the_revision_grows_when_an_answer_can_change_and_only_then() -> None:
    made = zone(vm("a-0", public=("198.18.0.1",)))

    def grows(kind: str, row: dict[str, Any]) -> bool:
        before = made.revision
        made.put(kind, row)
        return made.revision > before

    same = vm("a-0", public=("198.18.0.1",))
    assert not grows("vm", same)
    assert not grows("vm", {**same, "reserved_bytes": 7, "reason": "x"})
    assert grows("vm", {**same, "state": "paused"})
    assert grows("vm", same)
    assert grows("vm", {**same, "public": ["198.18.0.2"]})
    assert grows("vm", {**same, "state": "dead"})
    assert not grows("vm", {**same, "state": "dead"})
    assert not grows("cluster", cluster("a"))
    assert grows("cluster", cluster("b"))
    assert not grows("ticket", {"id": "t"})
    before = made.revision
    made.delete("vm", "nobody-0")
    made.delete("cluster", "nobody")
    made.delete("ticket", "t")
    assert made.revision == before


@pytest.mark.parametrize(
    "text", ["", None, "no address", "1.2.3", "fe80::1%eth0", "1.2.3.4/32", 7.5]
)
def test_an_address_that_is_none_is_left_out(text: Any) -> None:
    row = {**vm("a-0", public=("198.18.0.1",)), "ip6": text}
    row["public"] = [text, "198.18.0.1"]
    made = zone(row)
    assert addresses(made, "a") == ("198.18.0.1",)
    assert addresses(made, "a", "a") == ("10.0.0.1",)


def test_rows_of_a_controller_without_public_addresses() -> None:
    row = vm("a-0")
    del row["public"], row["ip6"]
    assert addresses(zone(row), "a") == ()
    assert addresses(zone(row), "a", "a") == ("10.0.0.1",)


# names and rows by chance

NAMES = st.sampled_from(["a", "b", "a-1", "a-1-2", "b-0", "ns"])
PUBLICS = [f"198.18.0.{n}" for n in range(1, 6)] + [f"2001:db8::{n}" for n in range(1, 4)]


@st.composite
def vms(draw: st.DrawFn) -> dict[str, Any]:
    state = draw(st.sampled_from([*LIVE, "ending", "dead"]))
    public = tuple(draw(st.lists(st.sampled_from(PUBLICS), max_size=3, unique=True)))
    vmid = draw(st.integers(0, 3))
    created = draw(st.integers(1, 6))
    return vm(f"{draw(NAMES)}-{vmid}", state, public, f"10.0.0.{vmid + 1}", created=created)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("vm"), vms()),
        st.tuples(st.just("cluster"), st.builds(cluster, NAMES, st.integers(1, 6))),
        st.tuples(st.just("no vm"), vms()),
        st.tuples(st.just("no cluster"), st.builds(cluster, NAMES)),
    ),
    max_size=30,
)


def meant(
    name: str, clusters: dict[str, float], rows: dict[str, dict[str, Any]], view: str
) -> tuple[str, ...] | None:
    """The same, from all rows each time and in the plainest way."""
    live = [row for row in rows.values() if row["state"] in LIVE]
    one = [row for row in live if row["name"] == name]
    if one and (name not in clusters or one[0]["created"] <= clusters[name]):
        chosen = one
    elif name in clusters:
        chosen = sorted((r for r in live if r["cluster"] == name), key=lambda r: int(r["vmid"]))
    else:
        return None
    found: list[str] = []
    for row in chosen:
        if row["state"] == "running":
            told = [row["ip"]] if row["cluster"] == view else row["public"]
            found += [address for address in told if address not in found]
    return tuple(found)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.sampled_from(["", "a", "b", "a-1"]))
def test_whatever_happened_names_mean_what_the_rows_say(
    steps: list[tuple[str, dict[str, Any]]], view: str
) -> None:
    made, clusters, rows = Zone(), dict[str, float](), dict[str, dict[str, Any]]()
    for kind, row in steps:
        if kind.startswith("no "):
            made.delete(kind[3:], row["name"])
            (rows if kind == "no vm" else clusters).pop(row["name"], None)
        else:
            made.put(kind, row)
            if kind == "vm":
                rows[row["name"]] = row
            else:
                clusters[row["name"]] = row["created"]
    anew = Zone()
    anew.replace([cluster(name, at) for name, at in clusters.items()], rows.values())
    for name in {*clusters, *rows, "a", "a-9", "nobody"}:
        wanted = meant(name, clusters, rows, view)
        for zone_ in (made, anew):
            assert addresses(zone_, name, view) == wanted
            assert addresses(zone_, f"{name}.clusters", view) == wanted
    for address in PUBLICS:
        having = sorted(
            row["name"]
            for row in rows.values()
            if row["state"] == "running" and address in row["public"]
        )
        for zone_ in (made, anew):
            meaning = find(zone_, ipaddress.ip_address(address).reverse_pointer, view)
            assert (list(meaning.names) if meaning else []) == [
                f"{name}.clusters" for name in having
            ]


@given(st.ip_addresses())
def test_reverse_names_are_read_as_they_are_written(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    assert address_of(tuple(address.reverse_pointer.split("."))) == str(address)


@given(st.lists(st.text(max_size=8), max_size=40).map(tuple))
def test_any_labels_at_all_can_be_asked_for(labels: Labels) -> None:
    for end in ((), ("clusters",), ("in-addr", "arpa"), ("ip6", "arpa")):
        address_of(labels + end)
        WEB.find(labels + end)
        WEB.find(labels + end, "web")
