"""By what names a guest knows others: its agent writes the resolver and /etc/hosts, and what is not its own stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from copper.host.guest_port import GuestPort
from tests.unit.guests import DEADLINE, IDENTITY, RawHost, net
from tests.unit.namespaces import LOCALHOST, Cabled, cabled, master, pytestmark, say_hosts

__all__ = ["cabled", "master", "pytestmark"]


# the resolver


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


BEGIN, END = "# copper: begin\n", "# copper: end\n"


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
