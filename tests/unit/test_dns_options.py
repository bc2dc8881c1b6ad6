"""Where names are answered, and what the settings say of it."""

from __future__ import annotations

import socket

import pytest

from copper.dns.options import Address, bound, options_of, parse_address
from copper.model.errors import BadInput, Conflict
from copper.model.settings import Settings
from tests.unit.dns_servers import ANYWHERE


def test_one_port_for_both_and_what_is_taken_is_said() -> None:
    with bound(ANYWHERE) as made:
        at = made.at
        assert made.udp.getsockname() == made.tcp.getsockname()
        with pytest.raises(Conflict, match=rf"names at {at}: Address already in use"), bound(at):
            pass
    with bound(at) as again:  # it is free
        assert again.at == at


def test_a_port_that_is_taken_for_tcp_alone_is_not_taken_for_udp() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        at = Address("127.0.0.1", other.getsockname()[1])
        with pytest.raises(Conflict), bound(at):
            pass
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind((at.host, at.port))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1:53", "127.0.0.1:53"),
        ("[::1]:10053", "[::1]:10053"),
        ("[2001:DB8:0::1]:1", "[2001:db8::1]:1"),
    ],
)
def test_addresses_are_read_and_shown(text: str, shown: str) -> None:
    assert str(parse_address("X", text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "53", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "::1:53"),
        *("[127.0.0.1]:53", "localhost:53", "[fe80::1%lo]:53", "127.0.0.1:-1", "[::1", "127.1:53"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="COPPER_DNS="):
        parse_address("COPPER_DNS", text)


@pytest.mark.parametrize(
    "domain", [".", "a..b", "-a", "a-", "a b", "*", "ä", "a" * 64, ".".join(["a" * 50] * 5), "a_b"]
)
def test_what_is_no_domain_is_refused(domain: str) -> None:
    with pytest.raises(BadInput, match="COPPER_DOMAIN="):
        options_of(Settings(domain=domain))


def test_settings_of_the_server_of_names() -> None:
    given = options_of(Settings())
    assert (str(given.at), given.domain, given.forward) == ("127.0.0.1:10053", "clusters", None)
    given = options_of(Settings(dns="off", domain="VMs.Example.org.", dns_forward="192.0.2.1:53"))
    assert (given.at, given.domain) == (None, "vms.example.org")
    assert str(given.forward) == "192.0.2.1:53"
    with pytest.raises(BadInput, match="is COPPER_DNS"):
        options_of(Settings(dns_forward="127.0.0.1:10053"))
    with pytest.raises(BadInput, match="COPPER_DNS"):
        options_of(Settings(dns="[::]:53"))
