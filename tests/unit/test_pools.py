"""Pools of addresses: what is taken for one, and that no address is in anybody's hands twice."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copper.controller.pools import MOST, Pool, in_common, parse_pool
from copper.model.errors import BadInput


@pytest.mark.parametrize(
    ("texts", "ranges"),
    [
        (["198.51.100.10-198.51.100.40"], ["198.51.100.10-198.51.100.40"]),
        (["198.51.100.7"], ["198.51.100.7"]),
        # the network's own address, and all of it, are nobody's
        (["198.51.100.0/30"], ["198.51.100.1-198.51.100.2"]),
        (["198.51.100.0/31"], ["198.51.100.0-198.51.100.1"]),
        (["198.51.100.9/32"], ["198.51.100.9"]),
        (["2001:db8::/126"], ["2001:db8::1-2001:db8::3"]),
        (["198.51.100.3", "198.51.100.1 - 198.51.100.2"], ["198.51.100.1-198.51.100.3"]),
        (["2001:db8::5", "198.51.100.3"], ["198.51.100.3", "2001:db8::5"]),
    ],
)
def test_ranges_prefixes_and_addresses_are_ranges(texts: list[str], ranges: list[str]) -> None:
    assert [one.text for one in parse_pool(texts)] == ranges
    assert parse_pool(ranges) == parse_pool(texts)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected FIRST-LAST"),
        ("198.51.100.9-", "expected FIRST-LAST"),
        ("198.51.100.9-198.51.100.1", "expected FIRST-LAST"),
        ("198.51.100.9-2001:db8::1", "expected FIRST-LAST"),
        ("198.51.100.1/24", "expected FIRST-LAST"),  # bits behind the prefix
        ("198.51.100.300", "expected FIRST-LAST"),
        ("fe80::1%eth0", "expected FIRST-LAST"),
        ("127.0.0.5", "loopback"),
        ("fe80::1", "link-local"),
        ("224.0.0.1-224.0.0.9", "multicast"),
        ("0.0.0.0", "unspecified"),
        ("10.0.0.0/24", "private network of virtual clusters"),
        ("9.255.255.255-10.1.0.0", "private network of virtual clusters"),
        ("fd00:c::/32", "private network of virtual clusters"),
    ],
)
def test_what_is_no_pool_is_refused(text: str, says: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_pool([text])
    assert says in str(caught.value)


def test_an_address_is_in_a_pool_once() -> None:
    with pytest.raises(BadInput, match="in common"):
        parse_pool(["198.51.100.0/28", "198.51.100.14"])
    some, others = parse_pool(["198.51.100.0/28"]), parse_pool(["198.51.100.14-198.51.100.20"])
    assert in_common(some, others) == some[0]
    assert in_common(some, parse_pool(["198.51.100.15"])) is None


def test_a_vm_has_one_of_each_version_and_the_shorter_one_counts() -> None:
    pool = Pool(["198.51.100.1-198.51.100.3", "2001:db8::/64"])
    assert (pool.size, pool.free) == (3, 3)
    assert pool.pick(2) == [["198.51.100.1", "2001:db8::1"], ["198.51.100.2", "2001:db8::2"]]
    assert Pool(["2001:db8::/64"]).free == MOST


def test_what_was_given_back_comes_again_as_late_as_can_be() -> None:
    pool = Pool(["198.51.100.1-198.51.100.3"])
    given = []
    for _ in range(6):
        ((address,),) = pool.pick(1)
        given.append(address[-1])
        pool.take(address)
        pool.give_back(address)
    assert given == list("123123")


POOLS = st.sampled_from(
    [
        ["198.51.100.1-198.51.100.6"],
        ["198.51.100.1-198.51.100.2", "198.51.100.6-198.51.100.9", "2001:db8::/125"],
        ["2001:db8::7"],
    ]
)


@given(POOLS, st.lists(st.tuples(st.booleans(), st.integers(1, 4))))
def test_no_address_is_given_twice(texts: list[str], story: list[tuple[bool, int]]) -> None:
    pool = Pool(texts)
    held: list[list[str]] = []
    for gives, many in story:
        if gives and pool.free >= many:
            for addresses in pool.pick(many):
                taken = {one for mine in held for one in mine}
                assert not taken & set(addresses)
                assert all(one in pool for one in addresses)
                versions = [ipaddress.ip_address(one).version for one in addresses]
                assert versions == sorted({one.version for one in pool.ranges})
                held.append(addresses)
                for address in addresses:
                    pool.take(address)
        elif held:
            for address in held.pop(many % len(held)):
                pool.give_back(address)
        assert pool.free == pool.size - len(held)
