"""What a fork must not do on the wire: each frame of a virtual cluster's network is looked at while it is forked."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from typing import NamedTuple

from copper.host.cgroups import instance_of
from copper.net import namespaces
from copper.net.addresses import ipv4_of, mac_of
from copper.net.filter import vmid_of
from tests.vm.machinery import Copper

MANY = 16
PORT = 7000
ALL, ARP, IPV4, TCP = 3, 0x0806, 0x0800, 6
OUTGOING, SOL_PACKET, STATISTICS, RCVBUFFORCE = 4, 263, 6, 33
FIN, RST = 1, 4


class Seen(NamedTuple):
    """A frame at a VM's tap: one that the VM sent, or one that it was sent."""

    vmid: int
    sent: bool
    frame: bytes

    @property
    def kind(self) -> int:
        return int.from_bytes(self.frame[12:14], "big")

    @property
    def mac(self) -> str:
        return self.frame[6:12].hex(":")


class Segment(NamedTuple):
    """The parts of a TCP segment that say whose it is."""

    source: str
    target: str
    ports: tuple[int, int]
    flags: int


def segment(frame: bytes) -> Segment | None:
    """None for what is no TCP over IPv4."""
    if frame[12:14] != b"\x08\0" or frame[23] != TCP:
        return None
    at = 14 + 4 * (frame[14] & 15)
    ends = (str(ipaddress.IPv4Address(frame[place : place + 4])) for place in (26, 30))
    source, target = ends
    return Segment(source, target, struct.unpack_from("!HH", frame, at), frame[at + 13])


class Capture:
    """All that passes the taps of one virtual cluster, in both directions, also what is dropped there."""

    def __init__(self, copper: Copper, cluster: str) -> None:
        self.name = f"copper-{instance_of(copper.settings.run_dir)[:6]}-{cluster}"
        self.seen: list[Seen] = []
        self._lost = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[list[Seen]]:
        """What was seen, complete at the end of the block; nothing may have been missed."""
        sock = self._open()
        end, told = os.pipe()
        thread = threading.Thread(target=self._read, args=(sock, end))
        thread.start()
        try:
            yield self.seen
        finally:
            os.close(told)
            thread.join()
            lost = struct.unpack("=II", sock.getsockopt(SOL_PACKET, STATISTICS, 8))[1]
            sock.close()
            os.close(end)
        assert not lost

    def _open(self) -> socket.socket:
        made: list[socket.socket] = []

        def there() -> None:
            namespaces.enter(self.name)
            made.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL)))

        thread = threading.Thread(target=there)
        thread.start()
        thread.join()
        made[0].setsockopt(socket.SOL_SOCKET, RCVBUFFORCE, 64 << 20)
        made[0].setblocking(False)
        return made[0]

    def _read(self, sock: socket.socket, end: int) -> None:
        while True:
            ready, _, _ = select.select([sock.fileno(), end], [], [])
            with contextlib.suppress(BlockingIOError):
                while True:
                    frame, where = sock.recvfrom(65536)
                    vmid = vmid_of(where[0])
                    if vmid is not None:
                        self.seen.append(Seen(vmid, where[2] != OUTGOING, frame))
            if end in ready:
                return


# something is always on its way, and waits to be sent again in what is forked
STREAM = """
setsid sh -c 'while :; do echo line; usleep 5000; done | nc PEER PORT' >/dev/null 2>&1 &
until netstat -tn | grep -q ':PORT .*ESTABLISHED'; do usleep 100000; done
"""
LISTENERS = """
setsid sh -c 'tail -f /dev/null | nc -l -p PORT >/tmp/got' >/dev/null 2>&1 &
until netstat -tln | grep -q ':PORT '; do usleep 100000; done
"""


def grown(copper: Copper, vm: str, path: str) -> None:
    """Waits until more has come."""
    size = copper.sh(vm, f"wc -c <{path}").strip()
    copper.sh(vm, f"until [ $(wc -c <{path}) -gt $(({size} + 100)) ]; do usleep 50000; done")


def test_a_peer_sees_no_packet_of_a_clone_on_the_parents_connection(
    copper: Copper, micro: str
) -> None:
    master = copper.boot("a", micro)
    (peer,) = copper.clone(master, 1)
    copper.sh(peer, LISTENERS.replace("PORT", str(PORT)))
    copper.sh(master, "setsid nc -ll -p 7001 -e cat >/dev/null 2>&1 &")
    copper.sh(master, STREAM.replace("PEER", peer).replace("PORT", str(PORT)))
    with Capture(copper, "a").running() as seen:
        grown(copper, peer, "/tmp/got")
        clones = copper.clone(master, MANY)
        grown(copper, peer, "/tmp/got")  # the master's goes on
        # by then all clones are on the wire, and have spoken there
        for clone in clones:
            assert copper.sh(peer, f"echo hello | nc -w 20 {clone} 7001") == "hello\n"
        gone = "netstat -tn | grep -c ':7000 ' || true"
        assert copper.everywhere(clones, gone) == ["0\n"] * MANY
        grown(copper, peer, "/tmp/got")
    old = [(one, part) for one in seen if (part := segment(one.frame)) and PORT in part.ports]
    assert {(one.vmid, one.sent) for one, _ in old} == {
        *((0, True), (0, False)),
        *((1, True), (1, False)),
    }
    for one, part in old:
        who = 0 if part.ports[1] == PORT else 1
        assert (one.mac, part.source) == (mac_of(who), ipv4_of(who)), one
        assert not part.flags & (FIN | RST), one
    # nor did a clone say anything else as its parent
    for one in seen:
        if one.sent and one.kind in (ARP, IPV4):
            assert one.mac == mac_of(one.vmid), one
    spoke = {one.vmid for one in seen if one.sent and segment(one.frame)}
    assert spoke >= {int(clone.rpartition("-")[2]) for clone in clones}


def test_nobody_claims_anothers_address_while_all_reach_all(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    copper.sh(master, "ping -c 1 -W 20 10.0.0.254 >/dev/null")  # a neighbour that clones inherit
    with Capture(copper, "a").running() as seen:
        vms = [master, *copper.clone(master, MANY)]
        ping = f"for n in {' '.join(vms)}; do ping -c 1 -W 60 $n >/dev/null || echo $n; done"
        assert copper.everywhere(vms, ping) == [""] * len(vms)
    claims: dict[str, set[str]] = {}
    for one in seen:
        if one.kind == ARP:
            mac, address = one.frame[22:28].hex(":"), ipaddress.IPv4Address(one.frame[28:32])
            claims.setdefault(str(address), set()).add(mac)
    for vmid in range(MANY + 1):
        assert claims.pop(ipv4_of(vmid), {mac_of(vmid)}) == {mac_of(vmid)}
    claims.pop("0.0.0.0", None)  # whoever asks before he has an address
    assert set(claims) <= {"10.0.0.254"}
    known = [said.splitlines() for said in copper.everywhere(vms, "ip neigh show dev eth0")]
    macs = {ipv4_of(vmid): mac_of(vmid) for vmid in range(MANY + 1)}
    found = [line.split() for lines in known for line in lines if "lladdr" in line]
    assert len(found) >= MANY * (MANY + 1)  # each knows all others
    for words in found:
        assert macs.get(words[0], words[2]) == words[2], words
