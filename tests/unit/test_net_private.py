"""Private networks as the kernel has them: what a tap may send, who hears it, and that nothing is left.

Frames are written to the taps as QEMU does. All of it is in namespaces that the tests make; where a process may not
make one, or nft is missing, they are skipped.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import select
import shutil
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from copper.model.errors import CopperError
from copper.net import namespaces
from copper.net.addresses import GATEWAY, ipv4_of, ipv6_of, link_local_of, mac_of
from copper.net.networks import Networks
from copper.net.private import BRIDGE_MAC, open_lone_tap

HEARD_S = 60.0
QUIET_S = 0.2
ALL = "ff:ff:ff:ff:ff:ff"
IPV4, ARP, IPV6, VLAN = 0x0800, 0x0806, 0x86DD, 0x8100
NO_HEADER = bytes(12)  # of virtio: nothing is left to do


def _why_not() -> str:
    if os.geteuid():
        return "needs root"
    if shutil.which("nft") is None:
        return "needs nft"
    try:
        os.close(open_lone_tap())
    except OSError as error:
        return f"no taps in network namespaces here: {error}"
    return ""


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "runs")


class Wire:
    """Virtual clusters with taps, as QEMU would hold them."""

    def __init__(self) -> None:
        self.instance = f"test{secrets.token_hex(3)}"
        self.networks = Networks(self.instance)
        self.taps: dict[tuple[str, int], int] = {}

    async def plug(self, cluster: str, *vmids: int, up: bool = True) -> None:
        for vmid in vmids:
            self.taps[cluster, vmid] = await self.networks.tap(cluster, vmid)
            if up:
                await self.networks.link_up(cluster, vmid)

    async def unplug(self, cluster: str, vmid: int) -> None:
        os.close(self.taps.pop((cluster, vmid)))
        await self.networks.leave(cluster, vmid)

    def send(self, vmid: int, frame: bytes, cluster: str = "a") -> None:
        with contextlib.suppress(OSError):  # a tap that is down takes nothing
            os.write(self.taps[cluster, vmid], NO_HEADER + frame)

    def hears(self, vmid: int, wanted: bytes, cluster: str = "a", within: float = HEARD_S) -> bool:
        """Whether a frame with these bytes comes out of a tap."""
        fd, until = self.taps[cluster, vmid], time.monotonic() + within
        while (left := until - time.monotonic()) > 0:
            if select.select([fd], [], [], left)[0]:
                with contextlib.suppress(OSError):
                    if wanted in os.read(fd, 65536)[len(NO_HEADER) :]:
                        return True
        return False


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    made = Wire()
    yield made
    for cluster, vmid in list(made.taps):
        await made.unplug(cluster, vmid)
    made.networks.close()
    assert namespaces.names(f"copper-{made.instance}") == []


def ethernet(to: str, sender: str, kind: int, payload: bytes) -> bytes:
    return _mac(to) + _mac(sender) + struct.pack("!H", kind) + payload


def _mac(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _ip(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def ipv4(source: str, target: str, mark: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(mark), 1, 0, 64, 253, 0)
    total = sum(struct.unpack("!10H", head + _ip(source) + _ip(target)))
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack("!H", total) + _ip(source) + _ip(target) + mark


def ipv6(source: str, target: str, mark: bytes, next_header: int = 253) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(mark), next_header, 255)
    return head + _ip(source) + _ip(target) + mark


def arp(operation: int, mac: str, source: str, target: str) -> bytes:
    head = struct.pack("!HHBBH", 1, IPV4, 6, 4, operation)
    return head + _mac(mac) + _ip(source) + bytes(6) + _ip(target)


def advertisement(target: str, mac: str, kind: int = 136) -> bytes:
    """Of a neighbour, or of a router; its checksum is nobody's business here."""
    return struct.pack("!BBHI", kind, 0, 0, 0x60000000) + _ip(target) + b"\2\1" + _mac(mac)


def _mark() -> bytes:
    return secrets.token_bytes(16)


async def test_vms_reach_each_other_from_the_first_frame_on(wire: Wire) -> None:
    await wire.plug("a", 0, 1, 2)
    for one, other in ((0, 1), (1, 2), (2, 0)):
        mark = _mark()
        payload = ipv4(ipv4_of(one), ipv4_of(other), mark)
        wire.send(one, ethernet(mac_of(other), mac_of(one), IPV4, payload))
        assert wire.hears(other, mark)
        payload = ipv6(ipv6_of(one), ipv6_of(other), mark)
        wire.send(one, ethernet(mac_of(other), mac_of(one), IPV6, payload))
        assert wire.hears(other, mark)


async def test_who_has_an_address_is_answered_by_the_bridge_and_wakes_nobody(wire: Wire) -> None:
    await wire.plug("a", 0, 1, 2)
    question = arp(1, mac_of(0), ipv4_of(0), ipv4_of(1))
    wire.send(0, ethernet(ALL, mac_of(0), ARP, question))
    assert wire.hears(0, struct.pack("!H", 2) + _mac(mac_of(1)) + _ip(ipv4_of(1)))
    assert not wire.hears(1, question, within=QUIET_S)
    assert not wire.hears(2, question, within=QUIET_S)


async def test_nobody_answers_for_a_vm_that_is_not_there(wire: Wire) -> None:
    await wire.plug("a", 0, 1, 2)
    await wire.unplug("a", 1)
    question = arp(1, mac_of(0), ipv4_of(0), ipv4_of(1))
    wire.send(0, ethernet(ALL, mac_of(0), ARP, question))
    assert not wire.hears(0, _mac(mac_of(1)), within=QUIET_S)
    assert not wire.hears(2, question, within=QUIET_S)  # nor is anybody else asked


async def test_who_has_the_hosts_address_is_answered(wire: Wire) -> None:
    await wire.plug("a", 0, 1)
    question = arp(1, mac_of(0), ipv4_of(0), GATEWAY)
    answer = struct.pack("!H", 2) + _mac(BRIDGE_MAC) + _ip(GATEWAY)

    def asked() -> bool:
        wire.send(0, ethernet(ALL, mac_of(0), ARP, question))
        return wire.hears(0, answer, within=1)

    # again, as a guest would: a bridge's own end needs a moment after its first port
    assert any(asked() for _ in range(10))
    assert not wire.hears(1, question, within=QUIET_S)


async def test_what_a_vm_sends_before_its_link_is_up_reaches_nobody_then_or_later(
    wire: Wire,
) -> None:
    await wire.plug("a", 0)
    await wire.plug("a", 1, up=False)
    early, late = _mark(), _mark()
    frame = ethernet(mac_of(0), mac_of(1), IPV4, ipv4(ipv4_of(1), ipv4_of(0), early))
    wire.send(1, frame)
    assert not wire.hears(0, early, within=QUIET_S)
    await wire.networks.link_up("a", 1)
    wire.send(1, frame.replace(early, late))
    assert wire.hears(0, late)
    assert not wire.hears(0, early, within=QUIET_S)


FORGED = {
    "another's MAC": ethernet(
        mac_of(0), mac_of(2), IPV4, ipv4(ipv4_of(1), ipv4_of(0), b"forged-by-vm-one")
    ),
    "another's address": ethernet(
        mac_of(0), mac_of(1), IPV4, ipv4(ipv4_of(2), ipv4_of(0), b"forged-by-vm-one")
    ),
    "the host's address": ethernet(
        mac_of(0), mac_of(1), IPV4, ipv4(GATEWAY, ipv4_of(0), b"forged-by-vm-one")
    ),
    "an address outside": ethernet(
        mac_of(0), mac_of(1), IPV4, ipv4("192.0.2.1", ipv4_of(0), b"forged-by-vm-one")
    ),
    "another's IPv6 address": ethernet(
        mac_of(0), mac_of(1), IPV6, ipv6(ipv6_of(2), ipv6_of(0), b"forged-by-vm-one")
    ),
    "another's link-local address": ethernet(
        mac_of(0), mac_of(1), IPV6, ipv6(link_local_of(2), ipv6_of(0), b"forged-by-vm-one")
    ),
    "no IPv6 address": ethernet(
        mac_of(0), mac_of(1), IPV6, ipv6("::", ipv6_of(0), b"forged-by-vm-one")
    ),
    "a VLAN": ethernet(
        mac_of(0),
        mac_of(1),
        VLAN,
        b"\0\7" + struct.pack("!H", IPV4) + ipv4(ipv4_of(2), ipv4_of(0), b"forged-by-vm-one"),
    ),
    "a priority tag": ethernet(
        mac_of(0),
        mac_of(1),
        VLAN,
        b"\0\0" + struct.pack("!H", IPV4) + ipv4(ipv4_of(2), ipv4_of(0), b"forged-by-vm-one"),
    ),
    "an unknown type": ethernet(mac_of(0), mac_of(1), 0x88B5, b"forged-by-vm-one"),
    "an ARP answer for another": ethernet(
        mac_of(0), mac_of(1), ARP, arp(2, mac_of(1), ipv4_of(2), ipv4_of(0)) + b"forged-by-vm-one"
    ),
    "an ARP answer with another's MAC": ethernet(
        mac_of(0), mac_of(1), ARP, arp(2, mac_of(2), ipv4_of(1), ipv4_of(0)) + b"forged-by-vm-one"
    ),
    "an ARP question as another": ethernet(
        ALL, mac_of(1), ARP, arp(1, mac_of(1), ipv4_of(2), "10.0.0.77") + b"forged-by-vm-one"
    ),
    "a neighbour advertisement for another": ethernet(
        mac_of(0),
        mac_of(1),
        IPV6,
        ipv6(
            ipv6_of(1),
            ipv6_of(0),
            advertisement(ipv6_of(2), mac_of(1)) + b"forged-by-vm-one",
            58,
        ),
    ),
    "a router advertisement": ethernet(
        mac_of(0),
        mac_of(1),
        IPV6,
        ipv6(
            link_local_of(1),
            link_local_of(0),
            advertisement(link_local_of(1), mac_of(1), 134) + b"forged-by-vm-one",
            58,
        ),
    ),
    "a report of who listens": ethernet(
        mac_of(0),
        mac_of(1),
        IPV6,
        ipv6(
            link_local_of(1),
            "ff02::16",
            b"\x3a\0\5\2\0\0\1\0" + bytes([143]) + bytes(7) + b"forged-by-vm-one",
            0,
        ),
    ),
    "a redirect": ethernet(
        mac_of(0),
        mac_of(1),
        IPV6,
        ipv6(
            link_local_of(1),
            link_local_of(0),
            advertisement(ipv6_of(2), mac_of(1), 137) + b"forged-by-vm-one",
            58,
        ),
    ),
}


@pytest.mark.parametrize("what", FORGED)
async def test_a_vm_sends_as_itself_or_not_at_all(wire: Wire, what: str) -> None:
    await wire.plug("a", 0, 1, 2)
    honest = _mark()
    wire.send(1, FORGED[what])
    wire.send(1, ethernet(mac_of(0), mac_of(1), IPV4, ipv4(ipv4_of(1), ipv4_of(0), honest)))
    fd, seen = wire.taps["a", 0], b""
    while honest not in seen:  # frames of one tap stay in their order
        assert select.select([fd], [], [], HEARD_S)[0], "the honest frame did not come"
        seen += os.read(fd, 65536)
    assert b"forged-by-vm-one" not in seen


async def test_an_advertisement_for_itself_passes(wire: Wire) -> None:
    await wire.plug("a", 0, 1)
    for own in (ipv6_of(1), link_local_of(1)):
        mark = _mark()
        payload = ipv6(own, ipv6_of(0), advertisement(own, mac_of(1)) + mark, 58)
        wire.send(1, ethernet(mac_of(0), mac_of(1), IPV6, payload))
        assert wire.hears(0, mark)


async def test_virtual_clusters_with_the_same_addresses_do_not_hear_each_other(wire: Wire) -> None:
    for cluster in ("a", "b"):
        await wire.plug(cluster, 0, 1)
    mark = _mark()
    frame = ethernet(ALL, mac_of(1), IPV4, ipv4(ipv4_of(1), "10.0.0.255", mark))
    wire.send(1, frame, "a")
    assert wire.hears(0, mark, "a")
    assert not wire.hears(0, mark, "b", within=QUIET_S)
    assert not wire.hears(1, mark, "b", within=QUIET_S)


async def test_a_flood_to_all_is_cut_off_and_the_others_are_still_heard(wire: Wire) -> None:
    await wire.plug("a", 0, 1, 2)
    flood = ethernet(ALL, mac_of(1), IPV4, ipv4(ipv4_of(1), "10.0.0.255", b"f" * 16))
    came = 0
    for _ in range(20_000):
        wire.send(1, flood)
        if select.select([wire.taps["a", 0]], [], [], 0)[0]:
            os.read(wire.taps["a", 0], 65536)
            came += 1
    assert came < 10_000
    mark = _mark()
    wire.send(2, ethernet(ALL, mac_of(2), IPV4, ipv4(ipv4_of(2), "10.0.0.255", mark)))
    assert wire.hears(0, mark)


async def test_vms_of_a_later_block_are_known_as_well(wire: Wire) -> None:
    await wire.plug("a", 0, 300)
    mark = _mark()
    payload = ipv4(ipv4_of(300), ipv4_of(0), mark)
    wire.send(300, ethernet(mac_of(0), mac_of(300), IPV4, payload))
    assert wire.hears(0, mark)


async def test_a_new_agent_finds_what_an_earlier_one_left(wire: Wire) -> None:
    await wire.plug("a", 0, 1)
    await wire.plug("b", 0)
    later = Networks(wire.instance)
    assert later.found() == {"a": [0, 1], "b": [0]}
    later.adopt("a", 0)
    later.adopt("a", 1)
    await later.link_up("a", 1)
    mark = _mark()
    wire.send(0, ethernet(mac_of(1), mac_of(0), IPV4, ipv4(ipv4_of(0), ipv4_of(1), mark)))
    assert wire.hears(1, mark)
    assert not await later.mend("a") and not await later.mend("a", 0)
    assert await later.mend("a", 1)  # it is on its wire, and stays there
    assert later.found() == {"a": [0, 1], "b": [0]} and later.off_wire() == {"a": {}}
    assert await later.mend("a", 7)
    os.close(wire.taps.pop(("b", 0)))
    await later.clear()
    assert later.found() == {"a": [0, 1]}
    for vmid in (0, 1):
        await later.leave("a", vmid)
    assert later.found() == {}
    later.close()


async def test_a_tap_that_is_nobodys_is_removed(wire: Wire) -> None:
    await wire.plug("a", 0, 1)
    later = Networks(wire.instance)
    later.adopt("a", 0)
    assert await later.mend("a", 1)
    assert later.found() == {"a": [0]}
    later.close()


async def test_two_coppers_of_one_host_do_not_see_each_other(wire: Wire) -> None:
    await wire.plug("a", 0)
    other = Networks(f"{wire.instance}x")
    assert other.found() == {}
    await other.clear()
    assert wire.networks.found() == {"a": [0]}
    assert other.cluster_of(wire.networks.namespace_of("a")) == ""
    assert wire.networks.cluster_of(wire.networks.namespace_of("a")) == "a"
    other.close()


async def test_a_namespace_comes_back_after_its_last_vm(wire: Wire) -> None:
    for _ in range(3):
        await wire.plug("a", 0, 1)
        assert wire.networks.found() == {"a": [0, 1]}
        await wire.unplug("a", 0)
        await wire.unplug("a", 1)
        assert wire.networks.found() == {}


async def test_what_fails_leaves_nothing(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CopperError, match="there is no nft"):
        await wire.networks.tap("a", 0)
    assert wire.networks.found() == {}


def test_this_process_stays_in_its_own_namespace() -> None:
    own = Path("/proc/self/ns/net").readlink()
    os.close(open_lone_tap())
    assert Path("/proc/self/ns/net").readlink() == own
