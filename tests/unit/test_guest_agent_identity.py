"""A copy of a machine becomes another one, for real: its ids and keys, what programs see, and steps that fail."""

from __future__ import annotations

import ctypes
import json
import os
import select
import struct
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from copper.host.guest_port import GuestPort
from copper.model.errors import CopperError
from copper.wire import frames
from tests.unit.guests import DEADLINE, IDENTITY, RawHost, net
from tests.unit.namespaces import (
    BOOT_ID,
    LOCALHOST,
    Cabled,
    become_clone,
    cabled,
    cabled_guest,
    master,
    pytestmark,
)

__all__ = ["cabled", "master", "pytestmark"]
IN_MOVED_TO = 0x80


# ids and keys


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
