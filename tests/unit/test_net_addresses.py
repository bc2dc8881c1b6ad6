"""Addresses of a virtual cluster's VMs: each has its own, whatever its vmid."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copper.net.addresses import (
    GATEWAY,
    GATEWAY6,
    MOST,
    PREFIX6,
    ipv4_of,
    ipv6_of,
    link_local_of,
    mac_of,
    number_of,
    prefix_for,
)

VMIDS = st.integers(0, MOST - 5)


@pytest.mark.parametrize(
    ("vmid", "ipv4", "ipv6", "mac"),
    [
        (0, "10.0.0.1", "fd00:c::1", "52:54:00:00:00:00"),
        (3, "10.0.0.4", "fd00:c::4", "52:54:00:00:00:03"),
        (252, "10.0.0.253", "fd00:c::fd", "52:54:00:00:00:fc"),
        (253, "10.0.1.0", "fd00:c::100", "52:54:00:00:00:fd"),
        (70_000, "10.1.17.115", "fd00:c::1:1173", "52:54:00:01:11:70"),
    ],
)
def test_an_address_follows_from_the_vmid(vmid: int, ipv4: str, ipv6: str, mac: str) -> None:
    assert (ipv4_of(vmid), ipv6_of(vmid), mac_of(vmid)) == (ipv4, ipv6, mac)


@settings(deadline=None)
@given(st.lists(VMIDS, min_size=2, max_size=2, unique=True))
def test_no_two_vms_have_the_same(vmids: list[int]) -> None:
    one, other = vmids
    for address in (ipv4_of, ipv6_of, link_local_of, mac_of):
        assert address(one) != address(other)
        assert address(one) not in (GATEWAY, GATEWAY6, "10.0.0.255")


@settings(deadline=None)
@given(st.lists(VMIDS, min_size=1))
def test_a_network_holds_all_its_vms_and_is_no_wider_than_that(vmids: list[int]) -> None:
    prefix = prefix_for(vmids)
    network = ipaddress.ip_network(f"10.0.0.0/{prefix}")
    addresses = [ipaddress.ip_address(ipv4_of(vmid)) for vmid in vmids]
    assert all(address in network for address in addresses)
    assert network.broadcast_address not in addresses and network.network_address not in addresses
    if prefix < 24:
        narrower = ipaddress.ip_network(f"10.0.0.0/{prefix + 1}")
        assert any(a not in narrower or a == narrower.broadcast_address for a in addresses)
    six = ipaddress.ip_network(f"fd00:c::/{PREFIX6}")
    assert all(ipaddress.ip_address(ipv6_of(vmid)) in six for vmid in vmids)


@pytest.mark.parametrize(
    ("most", "prefix"), [(0, 24), (252, 24), (253, 23), (507, 23), (508, 22), (MOST - 5, 8)]
)
def test_a_network_grows_with_its_last_vm(most: int, prefix: int) -> None:
    assert prefix_for([0, most]) == prefix


def test_a_link_local_address_is_made_of_the_mac() -> None:
    assert link_local_of(3) == "fe80::5054:ff:fe00:3"


@pytest.mark.parametrize("vmid", [-1, MOST])
def test_what_is_no_vmid_has_no_address(vmid: int) -> None:
    with pytest.raises(ValueError, match="has no address"):
        number_of(vmid)
