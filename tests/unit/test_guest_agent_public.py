"""Addresses of the world that are a VM's own: a guest's agent gives them to its card, and takes its parent's away."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from copper.host.guest_port import GuestPort
from copper.model.errors import CopperError
from tests.unit.guests import DEADLINE, IDENTITY, MASTER, net
from tests.unit.namespaces import OWN_3, Cabled, cabled

__all__ = ["cabled"]

ONE, TWO, SIX, SEVEN = "198.51.100.10", "198.51.100.11", "2001:db8::10", "2001:db8::11"


def told(of: dict[str, Any], *public: object) -> dict[str, Any]:
    return {**of, "net": {**net(of["vmid"]), "public": list(public)}}


def sources(cabled: Cabled) -> list[str | None]:
    """What it sends to the world as, of IPv4 and of IPv6."""
    ways = (*cabled.routes(), *cabled.routes("-6"))
    return [route.get("prefsrc") for route in ways if route["dst"] == "default"]


def answering(cabled: Cabled, address: str, far: str) -> str:
    """As whom the guest is seen at an address of the world, beyond its gateway."""
    six = ":" in address
    kind = socket.AF_INET6 if six else socket.AF_INET
    words = (f"{far}/{128 if six else 32}", "dev", "peer0", *(["nodad"] if six else []))
    cabled.run_far("ip", "addr", "replace", *words)
    via = "fd00:c::4" if six else "10.0.0.4"
    cabled.run_far(*("ip", "route", "replace", address, "via", via, "dev", "peer0"))
    with cabled.listen(kind, far, far=True) as listener:
        with cabled.connect((far, listener.getsockname()[1]), kind):
            server, (seen, *_) = listener.accept()
            server.close()
    return str(seen)


async def test_a_vm_has_them_and_sends_to_the_world_as_the_first(cabled: Cabled) -> None:
    port = await cabled.guest.port()
    ready = await port.begin(told(IDENTITY, ONE, SIX, TWO), "boot", deadline=DEADLINE)
    assert ready.public == 3
    assert cabled.addresses() == {**OWN_3, ONE: 32, TWO: 32, SIX: 128}
    assert sources(cabled) == [ONE, SIX]
    assert answering(cabled, ONE, "192.0.2.1") == ONE
    assert answering(cabled, SIX, "2001:db8:1::1") == SIX
    with cabled.listen(socket.AF_INET, "10.0.0.254", far=True) as near:
        with cabled.connect(("10.0.0.254", near.getsockname()[1])) as sock:
            assert sock.getsockname()[0] == "10.0.0.4"  # its own network knows it by this one


async def test_a_clone_has_its_own_and_not_its_parents(cabled: Cabled) -> None:
    port = await cabled.guest.port()
    await port.begin(told(MASTER, ONE, SIX), "boot", deadline=DEADLINE)
    await port.begin(told(IDENTITY, TWO, SEVEN), "clone", deadline=DEADLINE)
    assert cabled.addresses() == {**OWN_3, TWO: 32, SEVEN: 128}
    assert sources(cabled) == [TWO, SEVEN]
    without = {**IDENTITY, "vmid": 4, "net": net(4)}  # as with master-only
    await port.begin(without, "clone", deadline=DEADLINE)
    assert cabled.addresses() == {"10.0.0.5": 24, "fd00:c::5": 64, "fe80::5054:ff:fe00:4": 64}
    assert sources(cabled) == [None, None]


async def test_connections_of_the_parents_address_are_ended(cabled: Cabled) -> None:
    port = await cabled.guest.port()
    await port.begin(told(MASTER, ONE), "boot", deadline=DEADLINE)
    cabled.run_far("ip", "addr", "add", "192.0.2.1/32", "dev", "peer0")
    cabled.run_far("ip", "route", "add", ONE, "via", "10.0.0.1", "dev", "peer0")
    with (
        cabled.listen(socket.AF_INET, "192.0.2.1", far=True) as listener,
        cabled.connect(("192.0.2.1", listener.getsockname()[1])) as client,
        listener.accept()[0] as server,
    ):
        server.settimeout(0.3)
        await port.begin(told(IDENTITY, TWO), "clone", deadline=DEADLINE)
        with pytest.raises(ConnectionAbortedError):
            client.recv(1)
        with pytest.raises(TimeoutError):  # nothing of it leaves the clone
            server.recv(1)


async def test_a_resumed_vm_and_one_whose_network_grows_keep_them(cabled: Cabled) -> None:
    port = await cabled.guest.port()
    own = told(IDENTITY, ONE, SIX)
    for event in ("boot", "resume", "adopt"):
        assert (await port.begin(own, event, deadline=DEADLINE)).public == 2
    assert port.tell_hosts("", 20)
    await port.ping(DEADLINE)
    assert cabled.addresses() == {**OWN_3, "10.0.0.4": 20, ONE: 32, SIX: 128}
    assert sources(cabled) == [ONE, SIX]
    written = json.loads((cabled.guest.folder / "run/identity").read_text())
    assert written["net"]["public"] == [ONE, SIX]


async def test_a_guest_without_ipv6_has_those_of_ipv4(cabled: Cabled) -> None:
    cabled.run("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
    port: GuestPort = await cabled.guest.port()
    assert (await port.begin(told(IDENTITY, ONE, SIX), "boot", deadline=DEADLINE)).public == 2
    assert cabled.addresses() == {"10.0.0.4": 24, ONE: 32}


@pytest.mark.parametrize("public", [["198.51.100"], ["2001:db8:::1"], [7], [ONE] * 33])
async def test_what_is_no_address_is_a_failure(cabled: Cabled, public: list[object]) -> None:
    port = await cabled.guest.port()
    with pytest.raises(CopperError, match="connections: Invalid argument"):
        await port.begin(told(IDENTITY, *public), "clone", deadline=DEADLINE)
