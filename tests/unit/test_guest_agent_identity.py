"""The steps that make a copy of a machine another one, each taken for real, in namespaces of the agent's own."""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import struct
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from copper.host.guest_port import GuestPort
from copper.model.api import Event
from copper.model.errors import CopperError
from copper.wire import frames, messages
from tests.unit.guests import DEADLINE, IDENTITY, MASTER, RawHost, net
from tests.unit.namespaces import Cabled, cabled_guest, frames_from_guest, network_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces, as root")

IN_MOVED_TO = 0x80
OWN_3 = {"10.0.0.4": 24, "fd00:c::4": 64, "fe80::5054:ff:fe00:3": 64}
BOOT_ID = "/proc/sys/kernel/random/boot_id"
# longer than a connection waits before it sends again
RETRANSMITS_S = 1.0


@pytest.fixture
async def cabled(tmp_path: Path) -> AsyncIterator[Cabled]:
    async with cabled_guest(tmp_path) as cabled:
        yield cabled


@pytest.fixture
async def master(cabled: Cabled) -> AsyncIterator[GuestPort]:
    """Its port, once it has booted as the master."""
    port = await cabled.guest.port()
    await port.begin(MASTER, "boot", deadline=DEADLINE)
    yield port


async def become_clone(port: GuestPort) -> None:
    await port.begin(IDENTITY, "clone", deadline=DEADLINE)


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


# names and ids


async def test_every_vm_has_ids_of_its_own(cabled: Cabled, master: GuestPort) -> None:
    seen = []
    for vmid in range(1, 17):
        identity = {**IDENTITY, "vmid": vmid, "net": net(vmid), "machine_id": f"{vmid:032x}"}
        await master.begin({**identity, "name": f"web-{vmid}"}, "clone", deadline=DEADLINE)
        assert cabled.text("/etc/machine-id") == f"{vmid:032x}\n"
        assert cabled.text("/var/lib/dbus/machine-id") == f"{vmid:032x}\n"
        assert cabled.text("/etc/hostname") == cabled.run("uname", "-n") == f"web-{vmid}\n"
        seen.append(cabled.text(BOOT_ID))
        assert uuid.UUID(seen[-1].strip()).version == 4
    assert len({*seen, Path(BOOT_ID).read_text()}) == 17
    mounts = cabled.text("/proc/self/mountinfo")
    assert mounts.count(BOOT_ID) == 1


async def test_every_vm_has_an_ssh_host_key_where_its_image_asks_for_it(cabled: Cabled) -> None:
    ssh = cabled.folder / "etc/ssh"
    ssh.mkdir()
    host = RawHost(await cabled.guest.connection())
    await host.begin(5, "boot")
    assert not list(ssh.iterdir())
    (cabled.guest.folder / "etc").mkdir()
    (cabled.guest.folder / "etc/renew-ssh-host-keys").touch()
    (ssh / "ssh_host_rsa_key").write_text("of the image")
    keys = set()
    for session in range(100, 116):
        await host.tell(session, type="session", session=session, identity=IDENTITY, event="clone")
        while "ssh_host_key" not in (ready := await _message(host)):
            pass
        keys.add(ready["ssh_host_key"])
        public = (ssh / "ssh_host_ed25519_key.pub").read_text()
        assert public == ready["ssh_host_key"] + "\n"
        _signs(ssh / "ssh_host_ed25519_key", public)
    assert len(keys) == 16
    assert {path.name for path in ssh.iterdir()} == {
        "ssh_host_ed25519_key",
        "ssh_host_ed25519_key.pub",
    }
    assert (ssh / "ssh_host_ed25519_key").stat().st_mode & 0o777 == 0o600
    host.sock.close()


LOGIN_KEY = {"private_key": "-----BEGIN\nsecret\n-----END\n", "public_key": "ssh-ed25519 AAAA web"}


async def test_a_login_key_is_kept_where_only_root_reads_it(cabled: Cabled) -> None:
    host = RawHost(await cabled.guest.connection())
    folder = cabled.guest.folder / "etc"
    folder.mkdir()
    await host.begin(5, "boot")
    assert not list(folder.iterdir())
    await host.begin(6, "boot", login_key=LOGIN_KEY)
    private, public = folder / "ssh/id_ed25519", folder / "ssh/authorized_keys"
    assert (private.read_text(), public.read_text()) == (
        LOGIN_KEY["private_key"],
        LOGIN_KEY["public_key"] + "\n",
    )
    assert [path.stat().st_mode & 0o777 for path in (private, public)] == [0o600, 0o644]
    for session, event in enumerate(("clone", "adopt", "resume"), 7):  # which bring none
        await host.begin(session, event)
        assert private.read_text() == LOGIN_KEY["private_key"]
    for path in (cabled.guest.folder / "run").iterdir():
        assert path.is_socket() or "secret" not in path.read_text()
    other = {**LOGIN_KEY, "private_key": "another\n"}
    await host.begin(10, "boot", login_key=other)
    assert private.read_text() == "another\n"
    host.sock.close()


@pytest.mark.parametrize(
    "key", [{}, {"private_key": "x"}, {**LOGIN_KEY, "public_key": "x" * 512}, "x"]
)
async def test_a_login_key_that_is_none_is_a_failure(cabled: Cabled, key: Any) -> None:
    (cabled.guest.folder / "etc").mkdir()
    port = await cabled.guest.port()
    with pytest.raises(CopperError, match="ssh-login-key: Invalid argument"):
        await port.begin({**IDENTITY, "login_key": key or {"x": 1}}, "boot", deadline=DEADLINE)


async def _message(host: RawHost) -> dict[str, Any]:
    """The next message, with all its members."""
    while (frame := await host.frame()).kind != frames.MESSAGE:
        pass
    message: dict[str, Any] = json.loads(frame.payload)
    return message


def _signs(key: Path, public: str) -> None:
    """OpenSSH makes a signature with the private key that it finds good for the public one."""
    (signers := key.with_name("signers")).write_text(f"me {public}")
    signature = key.with_name("signature")
    asked: list[tuple[list[str | Path], Path | None]] = [
        (["-Y", "sign", "-q", "-n", "x", "-f", key], signature),
        (["-Y", "verify", "-q", "-n", "x", "-I", "me", "-f", signers, "-s", signature], None),
    ]
    for argv, out in asked:
        done = subprocess.run(["ssh-keygen", *argv], input=b"text", capture_output=True, check=True)
        if out is not None:
            out.write_bytes(done.stdout)
    signers.unlink()
    signature.unlink()


async def test_the_resolver_is_that_of_the_network(cabled: Cabled, master: GuestPort) -> None:
    assert cabled.text("/etc/resolv.conf") == "nameserver 10.0.0.254\nsearch clusters\n"


async def test_a_copy_has_its_resolver_before_its_name(cabled: Cabled, master: GuestPort) -> None:
    there = (cabled.folder / "etc/resolv.conf").stat().st_ino
    await master.begin(IDENTITY, "clone", deadline=DEADLINE)
    assert (cabled.folder / "etc/resolv.conf").stat().st_ino == there  # it was right: not touched
    place = {**net(5), "resolver": "fd00:c::fffe:254", "search": "vms.example.org"}
    await master.begin({**IDENTITY, "vmid": 5, "net": place}, "clone", deadline=DEADLINE)
    assert cabled.text("/etc/resolv.conf") == (
        "nameserver fd00:c::fffe:254\nsearch vms.example.org\n"
    )
    del place["search"]
    await master.begin({**IDENTITY, "vmid": 6, "net": place}, "clone", deadline=DEADLINE)
    assert cabled.text("/etc/resolv.conf") == "nameserver fd00:c::fffe:254\n"


async def test_a_resolver_that_another_program_sets_stays(cabled: Cabled) -> None:
    (cabled.folder / "etc/resolv.conf").symlink_to("/run/resolve/stub.conf")
    port = await cabled.guest.port()
    await port.begin(IDENTITY, "boot", deadline=DEADLINE)
    assert not Path("/run/resolve/stub.conf").exists()


async def test_a_resolver_beside_the_agents_own_files_is_written_there(cabled: Cabled) -> None:
    own = cabled.guest.folder / "run/resolv.conf"
    own.write_text("")
    (cabled.folder / "etc/resolv.conf").symlink_to(own)
    port = await cabled.guest.port()
    await port.begin(IDENTITY, "boot", deadline=DEADLINE)
    assert own.read_text() == "nameserver 10.0.0.254\nsearch clusters\n"
    assert (cabled.folder / "etc/resolv.conf").is_symlink()


# /etc/hosts

LOCALHOST = "127.0.0.1 localhost\n"
BEGIN, END = "# copper: begin\n", "# copper: end\n"


async def say_hosts(host: RawHost, text: str, **more: object) -> None:
    """Returns once the guest has read it."""
    await host.tell(5, type="hosts", text=text, **more)
    await host.tell(5, type="ping", id=1)
    while (await host.message())[1] != messages.Pong("pong", 1):
        pass


async def test_hosts_are_told_with_the_session_and_after_it(cabled: Cabled) -> None:
    host = RawHost(await cabled.guest.connection())
    await host.begin(5, "clone", hosts="10.0.0.4 web-3\n")
    hosts = cabled.folder / "etc/hosts"
    assert hosts.read_text() == f"{LOCALHOST}{BEGIN}10.0.0.4 web-3\n{END}"
    hosts.write_text(hosts.read_text() + "192.0.2.1 mine\n")
    await say_hosts(host, "10.0.0.4 web-3\n10.0.0.5 web-4\n")
    after = f"{BEGIN}10.0.0.4 web-3\n10.0.0.5 web-4\n{END}192.0.2.1 mine\n"
    assert hosts.read_text() == LOCALHOST + after
    await say_hosts(host, "")
    assert hosts.read_text() == f"{LOCALHOST}{BEGIN}{END}192.0.2.1 mine\n"
    host.sock.close()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"{BEGIN}10.0.0.4 a\n{END}"),
        ("no newline", f"no newline\n{BEGIN}10.0.0.4 a\n{END}"),
        (f"x\n{BEGIN}old\n{END}", f"x\n{BEGIN}10.0.0.4 a\n{END}"),
        (f"x\n{BEGIN}no end\n", f"x\n{BEGIN}no end\n{BEGIN}10.0.0.4 a\n{END}"),
        ("# copper: beginning\n", f"# copper: beginning\n{BEGIN}10.0.0.4 a\n{END}"),
        (None, f"{BEGIN}10.0.0.4 a\n{END}"),
    ],
)
async def test_what_else_is_in_hosts_stays(cabled: Cabled, before: str | None, after: str) -> None:
    hosts = cabled.folder / "etc/hosts"
    hosts.unlink()
    if before is not None:
        hosts.write_text(before)
    host = RawHost(await cabled.guest.connection())
    await host.begin(5, "clone", hosts="10.0.0.4 a\n")
    assert hosts.read_text() == after
    host.sock.close()


async def test_hosts_are_whole_at_every_moment(cabled: Cabled) -> None:
    host = RawHost(await cabled.guest.connection())
    await host.begin(5, "clone", hosts="")
    hosts = cabled.folder / "etc/hosts"
    opened = hosts.open()
    lines = "".join(f"10.1.{n // 250}.{n % 250} web-{n} fd00:c::{n:x}\n" for n in range(1024))
    await say_hosts(host, lines)
    assert opened.read() == f"{LOCALHOST}{BEGIN}{END}"  # who reads it meanwhile has the old one
    assert hosts.read_text() == f"{LOCALHOST}{BEGIN}{lines}{END}"
    assert not list(hosts.parent.glob("*.new"))
    opened.close()
    host.sock.close()


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


# what programs see


@contextmanager
def watched(folder: Path) -> Iterator[int]:
    """A descriptor that tells of files that are renamed into a folder."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        assert libc.inotify_add_watch(fd, str(folder).encode(), IN_MOVED_TO) >= 0
        yield fd
    finally:
        os.close(fd)


async def test_the_generation_can_be_watched(cabled: Cabled, master: GuestPort) -> None:
    with watched(cabled.guest.folder / "run") as fd:
        await become_clone(master)
        assert _moved_to(fd)[-1] == "generation"  # the last of all
        assert (cabled.guest.folder / "run/generation").read_text() == "1\n"
        await master.begin(IDENTITY, "resume", deadline=DEADLINE)
        with pytest.raises(BlockingIOError):  # nothing is another now
            os.read(fd, 4096)


def _moved_to(fd: int) -> list[str]:
    assert select.select([fd], [], [], DEADLINE)[0]
    data, names = os.read(fd, 4096), []
    while data:
        (length,) = struct.unpack_from("I", data, 12)
        names.append(data[16 : 16 + length].rstrip(b"\0").decode())
        data = data[16 + length :]
    return names


# steps that fail


@pytest.mark.parametrize(
    ("identity", "why"),
    [
        ({"net": {**net(3), "device": "eth7"}}, "net: No such device"),
        ({"net": {**net(3), "mac": "52:54:00:00:00"}}, "connections: Invalid argument"),
        ({"net": {**net(3), "mac": "01:00:00:00:00:01"}}, "net: Cannot assign requested address"),
        ({"net": {**net(3), "address": "10.0.0"}}, "connections: Invalid argument"),
        ({"net": {**net(3), "prefix": 33}}, "connections: Invalid argument"),
        ({"net": {**net(3), "gateway": "192.0.2.1"}}, "net: Network is unreachable"),
        ({"net": {**net(3), "resolver": "one"}}, "resolver: Invalid argument"),
        ({"net": {**net(3), "search": "a\nnameserver 192.0.2.1"}}, "resolver: Invalid argument"),
        ({"net": {**net(3), "search": ""}}, "resolver: Invalid argument"),
        ({"net": {**net(3), "search": "a" * 254}}, "resolver: Invalid argument"),
        ({"machine_id": "12"}, "machine-id: Invalid argument"),
        ({"machine_id": 12}, "machine-id: Invalid argument"),
        ({"name": "x" * 65}, "name: Invalid argument"),
    ],
)
async def test_a_step_that_fails_is_named(
    cabled: Cabled, identity: dict[str, object], why: str
) -> None:
    port = await cabled.guest.port()
    with pytest.raises(CopperError, match=why):
        await port.begin({**IDENTITY, **identity}, "clone", deadline=DEADLINE)


async def test_etc_that_cannot_be_written_is_a_failure(cabled: Cabled) -> None:
    cabled.run("mount", "-o", "remount,ro,bind", "/etc")
    port = await cabled.guest.port()
    with pytest.raises(CopperError, match="machine-id: Read-only file system"):
        await port.begin(IDENTITY, "clone", deadline=DEADLINE)


async def test_an_agent_that_is_told_so_changes_nothing(tmp_path: Path) -> None:
    async with cabled_guest(tmp_path, left_alone="") as cabled:
        before = [cabled.run("ip", "addr"), cabled.run("uname", "-n"), cabled.text(BOOT_ID)]
        port = await cabled.guest.port()
        await port.begin(IDENTITY, "clone", deadline=DEADLINE)
        assert [cabled.run("ip", "addr"), cabled.run("uname", "-n"), cabled.text(BOOT_ID)] == before
        assert [path.name for path in (tmp_path / "etc").iterdir()] == ["hosts"]
        assert (tmp_path / "etc/hosts").read_text() == LOCALHOST
