"""A copy of a machine has its own place on the network, and no connection of its parent's: for real, in namespaces."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from copper.host.guest_port import GuestPort
from copper.model.api import Event
from tests.unit.guests import DEADLINE, IDENTITY, MASTER, RawHost, net
from tests.unit.namespaces import (
    BOOT_ID,
    OWN_3,
    Cabled,
    become_clone,
    cabled,
    cabled_guest,
    frames_from_guest,
    master,
    network_of,
    pytestmark,
    say_hosts,
)

__all__ = ["cabled", "master", "pytestmark"]
# longer than a connection waits before it sends again
RETRANSMITS_S = 1.0
_kept: list[socket.socket] = []


@pytest.fixture(autouse=True)
def _close_kept() -> Iterator[None]:
    yield
    while _kept:
        _kept.pop().close()


def _keep(sock: socket.socket) -> socket.socket:
    """Open until the end of the test."""
    sock.settimeout(DEADLINE)
    _kept.append(sock)
    return sock


def _answering(cabled: Cabled, family: socket.AddressFamily = socket.AF_INET) -> int:
    """The port of a listener on the far end."""
    host = "10.0.0.254" if family == socket.AF_INET else "fd00:c::fffe"
    return int(_keep(cabled.listen(family, host, far=True)).getsockname()[1])


# the card


async def test_a_master_gets_its_addresses(cabled: Cabled, master: GuestPort) -> None:
    assert cabled.addresses() == {"10.0.0.1": 24, "fd00:c::1": 64, "fe80::5054:ff:fe00:0": 64}
    assert cabled.mac() == "52:54:00:00:00:00"
    with cabled.connect(("10.0.0.254", _answering(cabled))) as sock:
        assert sock.getsockname()[0] == "10.0.0.1"


async def test_of_a_rehearsal_nothing_is_left(cabled: Cabled) -> None:
    port = await cabled.guest.port()
    await port.begin({**MASTER, "rehearsal": net(1)}, "boot", deadline=DEADLINE)
    assert cabled.addresses() == {"10.0.0.1": 24, "fd00:c::1": 64, "fe80::5054:ff:fe00:0": 64}
    assert cabled.mac() == "52:54:00:00:00:00"
    assert " 10.0.0.2 " not in cabled.run("ip", "route", "show", "table", "all")
    assert json.loads(cabled.run("cat", str(cabled.guest.folder / "run/identity"))) == MASTER


async def test_a_rehearsal_that_fails_costs_nothing(cabled: Cabled) -> None:
    port = await cabled.guest.port()
    wrong = net(1) | {"device": "eth9"}
    await port.begin({**MASTER, "rehearsal": wrong}, "boot", deadline=DEADLINE)
    assert cabled.addresses() == {"10.0.0.1": 24, "fd00:c::1": 64, "fe80::5054:ff:fe00:0": 64}


async def test_who_writes_the_disk_of_one_that_rehearsed_is_no_child_of_its_agent(
    tmp_path: Path,
) -> None:
    async with cabled_guest(tmp_path, left_alone="seed,clock") as cabled:
        port = await cabled.guest.port()
        await port.begin({**MASTER, "rehearsal": net(1)}, "boot", deadline=DEADLINE)
        assert (await cabled.guest.gc("vmid")).out == "0\n"
        agent = cabled.guest.process.pid
        children = Path(f"/proc/{agent}/task/{agent}/children")
        assert children.read_text() == ""  # nor a zombie


async def test_a_clone_has_its_own_addresses_only(cabled: Cabled, master: GuestPort) -> None:
    cabled.run("ip", "addr", "add", "192.0.2.7/32", "dev", "eth0")
    await become_clone(master)
    assert cabled.addresses() == OWN_3
    assert cabled.mac() == "52:54:00:00:00:03"


async def test_more_addresses_than_are_read_at_once_go(cabled: Cabled, master: GuestPort) -> None:
    for number in range(100):
        cabled.run("ip", "addr", "add", f"192.0.2.{number}/24", "dev", "eth0")
    await become_clone(master)
    assert cabled.addresses() == OWN_3


async def test_neighbours_and_routes_of_the_parent_are_forgotten(
    cabled: Cabled, master: GuestPort
) -> None:
    cabled.connect(("10.0.0.254", _answering(cabled))).close()
    cabled.run("ip", "neigh", "replace", "10.0.0.9", "lladdr", "52:54:00:00:00:09", "dev", "eth0")
    cabled.run("ip", "route", "add", "192.0.2.0/24", "via", "10.0.0.9")
    cabled.run("ip", "-6", "route", "add", "2001:db8::/64", "via", "fd00:c::9")
    await become_clone(master)
    assert cabled.run("ip", "neigh", "show", "dev", "eth0") == ""
    assert {route["dst"] for route in cabled.routes()} == {"default", "10.0.0.0/24"}
    assert {route["dst"] for route in cabled.routes("-6")} == {
        "default",
        "fd00:c::/64",
        "fe80::/64",
    }


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_a_clone_speaks_at_once(
    cabled: Cabled, master: GuestPort, family: socket.AddressFamily
) -> None:
    port = _answering(cabled, family)
    await become_clone(master)
    host = "10.0.0.254" if family == socket.AF_INET else "fd00:c::fffe"
    with cabled.connect((host, port), family) as sock:
        assert sock.getsockname()[0] in OWN_3


async def test_a_guest_without_ipv6_has_no_addresses_of_it(cabled: Cabled) -> None:
    cabled.run("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
    port = await cabled.guest.port()
    await port.begin(IDENTITY, "boot", deadline=DEADLINE)
    assert cabled.addresses() == {"10.0.0.4": 24}


async def test_a_network_without_gateway(cabled: Cabled) -> None:
    port = await cabled.guest.port()
    alone = {key: value for key, value in net(3).items() if "gateway" not in key}
    await port.begin({**IDENTITY, "net": alone}, "boot", deadline=DEADLINE)
    assert [route["dst"] for route in cabled.routes()] == ["10.0.0.0/24"]


# connections


def _was_ended(sock: socket.socket) -> bool:
    """Whether who waits for data is told that the connection was ended."""
    try:
        sock.recv(1)
    except ConnectionAbortedError:
        return True
    return False


async def test_not_one_packet_of_an_old_connection_leaves_a_clone(
    cabled: Cabled, master: GuestPort
) -> None:
    listener = _keep(cabled.listen(socket.AF_INET6, "::"))
    connections = _connections(cabled, listener)
    cabled.far_addresses("del")
    for sock in connections[:4]:
        sock.send(b"never acknowledged, so it is sent again and again")
    with cabled.sniffer() as sniffer:
        assert _of(master_addresses := ("10.0.0.1", "fd00:c::1"), frames_from_guest(sniffer, 1.0))
        await become_clone(master)
        frames_from_guest(sniffer, 0)  # of before
        assert [_was_ended(sock) for sock in connections] == [True] * len(connections)
        cabled.far_addresses("add")
        cabled.connect(("10.0.0.254", _answering(cabled))).close()
        frames = frames_from_guest(sniffer, RETRANSMITS_S)
        assert _of(("10.0.0.4",), frames)
        assert not _of(master_addresses, frames)


def _connections(cabled: Cabled, listener: socket.socket) -> list[socket.socket]:
    """The guest's ends of connections of every kind: four of TCP to the far end, then others."""
    port = listener.getsockname()[1]
    v6 = socket.AF_INET6
    _keep(cabled.connect(("10.0.0.1", port), far=True))  # IPv4 in a socket of IPv6
    _keep(cabled.connect(("fd00:c::1", port), v6, far=True))
    return [
        *(_keep(listener.accept()[0]) for _ in range(2)),
        _keep(cabled.connect(("10.0.0.254", _answering(cabled)))),
        _keep(cabled.connect(("fd00:c::fffe", _answering(cabled, v6)), v6)),
        _keep(cabled.connect(("10.0.0.1", port))),  # to itself
        _keep(cabled.connect(("10.0.0.254", 9), type=socket.SOCK_DGRAM)),
        _keep(cabled.connect(("fd00:c::fffe", 9), v6, socket.SOCK_DGRAM)),
    ]


def _of(addresses: tuple[str, ...], frames: list[bytes]) -> list[bytes]:
    """The frames that one of these addresses sent."""
    sources = [_source(frame) for frame in frames]
    return [frame for frame, source in zip(frames, sources, strict=True) if source in addresses]


def _source(frame: bytes) -> str:
    kind = frame[12:14]
    if kind == b"\x08\x00":
        return socket.inet_ntoa(frame[26:30])
    if kind == b"\x08\x06":
        return socket.inet_ntoa(frame[28:32])
    return socket.inet_ntop(socket.AF_INET6, frame[22:38]) if kind == b"\x86\xdd" else ""


async def test_listeners_accept_at_the_new_address(cabled: Cabled, master: GuestPort) -> None:
    listeners = [_keep(cabled.listen(family, "")) for family in (socket.AF_INET, socket.AF_INET6)]
    await become_clone(master)
    for listener, host in zip(listeners, ("10.0.0.4", "fd00:c::4"), strict=True):
        address = (host, listener.getsockname()[1])
        with cabled.connect(address, listener.family, far=True) as far:
            own, _ = listener.accept()
            with own:
                own.send(b"hello")
            assert far.recv(5) == b"hello"


async def test_what_is_not_of_the_old_address_goes_on(cabled: Cabled, master: GuestPort) -> None:
    listener = _keep(cabled.listen(socket.AF_INET, "127.0.0.1"))
    one = _keep(cabled.connect(listener.getsockname()))
    other = _keep(listener.accept()[0])
    with network_of(cabled.pid):
        anywhere = _keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    anywhere.bind(("", 0))
    anywhere.settimeout(DEADLINE)
    await become_clone(master)
    one.send(b"over lo")
    assert other.recv(7) == b"over lo"
    far = _keep(
        cabled.connect(("10.0.0.4", anywhere.getsockname()[1]), type=socket.SOCK_DGRAM, far=True)
    )
    far.send(b"to all")
    assert anywhere.recv(6) == b"to all"


async def test_hundreds_of_old_connections_end(cabled: Cabled, master: GuestPort) -> None:
    listener = _keep(cabled.listen(socket.AF_INET, ""))
    address = ("10.0.0.1", listener.getsockname()[1])
    own = []
    for _ in range(300):
        _keep(cabled.connect(address, far=True))
        own.append(_keep(listener.accept()[0]))
    await become_clone(master)
    assert all(_was_ended(sock) for sock in own)


@pytest.mark.parametrize("event", ["resume", "adopt"])
async def test_who_stays_the_same_keeps_its_connections(
    cabled: Cabled, master: GuestPort, event: Event
) -> None:
    listener = _keep(cabled.listen(socket.AF_INET, ""))
    far = _keep(cabled.connect(("10.0.0.1", listener.getsockname()[1]), far=True))
    own = _keep(listener.accept()[0])
    boot_id = cabled.text(BOOT_ID)
    cabled.run("ip", "addr", "add", "192.0.2.7/32", "dev", "eth0")
    await master.begin(MASTER, event, deadline=DEADLINE)
    own.send(b"still here")
    assert far.recv(10) == b"still here"
    assert "192.0.2.7" in cabled.addresses()
    assert cabled.text(BOOT_ID) == boot_id


async def test_a_network_grows_under_its_connections(cabled: Cabled) -> None:
    host = RawHost(await cabled.guest.connection())
    await host.begin(5, "clone")
    listener = _keep(cabled.listen(socket.AF_INET, ""))
    far = _keep(cabled.connect(("10.0.0.4", listener.getsockname()[1]), far=True))
    own = _keep(listener.accept()[0])
    await say_hosts(host, "", prefix=23)
    assert cabled.addresses() == {**OWN_3, "10.0.0.4": 23}
    assert {route["dst"] for route in cabled.routes()} == {"default", "10.0.0.0/23"}
    own.send(b"on")
    assert far.recv(2) == b"on"
    written = json.loads((cabled.guest.folder / "run/identity").read_text())
    assert written["net"] == net(3, 23)
    host.sock.close()
