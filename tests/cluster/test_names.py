"""Names of a Copper's VMs, asked for by dig and others over loopback, also after everything was killed."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dns.rcode
import pytest

from copper.client import Client
from copper.dns.lend import lent
from copper.dns.options import Address, bound
from copper.model.settings import from_environment
from tests.cluster.names import (
    NETWORK,
    WAIT_S,
    NamedCopper,
    ask,
    dig,
    ended,
    free_port,
    named_copper,
    servers_of,
    texts,
)


@pytest.fixture
def copper() -> Iterator[NamedCopper]:
    with named_copper() as made:
        yield made


def public(copper: NamedCopper, cluster: str, kind: str = ".") -> list[str]:
    """What the API says that the VMs of a virtual cluster have."""
    rows = [row for row in copper.vms() if row["cluster"] == cluster]
    return sorted(address for row in rows for address in row["public"] if kind in address)


def await_names(port: int, name: str, wanted: list[str]) -> None:
    """Asks until the name has these addresses; how soon that must be is measured by `copper bench dns`."""
    deadline = time.monotonic() + 120
    while (found := texts(ask(port, name))) != wanted:
        assert time.monotonic() < deadline, (name, found, wanted)
        select.select([], [], [], 0.02)


def fork(copper: NamedCopper, cluster: str, clones: int) -> None:
    copper.run("gc-vc", "create", cluster, "--image", "micro", "--network", NETWORK)
    copper.run("gc-vc", "boot", cluster)
    copper.run("gc-vm", "exec", f"{cluster}-0", "--", "gc", "clone", str(clones))


def test_ten_machines_are_ten_addresses_under_one_name(copper: NamedCopper) -> None:
    _, port = copper.up()
    fork(copper, "web", 9)
    wanted = public(copper, "web")
    assert len(wanted) == 10
    await_names(port, "web", wanted)
    for question in (
        ["-q", "web"],
        ["web.clusters"],
        ["WEB.CLUSTERS", "+tcp"],
        ["web.clusters", "+noedns"],
    ):
        assert sorted(dig(port, *question)) == wanted
    assert sorted(dig(port, "web.clusters", "AAAA")) == public(copper, "web", ":")
    (row,) = (row for row in copper.vms() if row["name"] == "web-3")
    address, address6 = row["public"]
    assert dig(port, "web-3.clusters") == [address]
    assert dig(port, "web-3.clusters", "AAAA") == [address6]
    assert dig(port, "-x", address) == dig(port, "-x", address6) == ["web-3.clusters."]
    assert dig(port, "clusters", "NS") == ["a.ns.clusters."]
    assert dig(port, "a.ns.clusters") == ["127.0.0.1"]
    assert ask(port, "web-10.clusters").rcode() == dns.rcode.NXDOMAIN
    assert ask(port, "example.org").rcode() == dns.rcode.REFUSED

    copper.run("gc-vm", "kill", "web-3")
    await_names(port, "web", sorted({*wanted} - {address}))
    assert ask(port, "web-3.clusters").rcode() == dns.rcode.NXDOMAIN
    assert dig(port, "-x", address) == []
    copper.run("gc-vc", "pause", "web")
    await_names(port, "web", [])
    assert ask(port, "web-1.clusters").rcode() == dns.rcode.NOERROR
    copper.run("gc-vc", "unpause", "web")
    await_names(port, "web", sorted({*wanted} - {address}))
    copper.run("gc-vc", "kill", "web")
    await_names(port, "web-0", [])
    copper.run("gc-vc", "delete", "web")
    assert dig(port, "-q", "web") == []


def test_a_server_of_names_that_is_killed_is_started_anew_and_no_question_is_lost(
    copper: NamedCopper,
) -> None:
    node, port = copper.up()
    fork(copper, "a", 4)
    wanted = public(copper, "a")
    await_names(port, "a", wanted)
    before = servers_of(copper.folder)
    assert len(before) == 1
    os.kill(before[0], signal.SIGKILL)
    # asked while there is no server; answered by the next one, once it knows all names
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(60)
        sock.connect(("127.0.0.1", port))
        ended(before[0])
        query = dns.message.make_query("a.clusters", "A")
        sock.send(query.to_wire())
        answer = dns.message.from_wire(sock.recv(2000))
        while answer.rcode() == dns.rcode.SERVFAIL:
            sock.send(query.to_wire())
            answer = dns.message.from_wire(sock.recv(2000))
    assert texts(answer) == wanted
    assert servers_of(copper.folder) != before
    assert copper.up() == (node, port)  # the controller was not touched
    copper.run("gc-vm", "exec", "a-0", "--", "gc", "clone", "1")
    await_names(port, "a", public(copper, "a"))


def test_names_are_right_after_the_node_was_killed(copper: NamedCopper) -> None:
    node, port = copper.up()
    fork(copper, "a", 4)
    wanted = public(copper, "a")
    await_names(port, "a", wanted)
    servers = servers_of(copper.folder)
    os.kill(node, signal.SIGKILL)
    for pid in (node, *servers):
        ended(pid)  # nobody answers what nobody follows
    _, port = copper.up()
    await_names(port, "a", wanted)
    copper.run("copper", "down", "--keep-vms")
    assert not servers_of(copper.folder)
    _, port = copper.up()
    await_names(port, "a", wanted)


def test_a_copper_whose_address_is_taken_runs_without_names() -> None:
    port = free_port()
    with named_copper(COPPER_DNS=f"127.0.0.1:{port}") as one:
        assert one.up()[1] == port
        with named_copper(COPPER_DNS=f"127.0.0.1:{port}") as two:
            said = two.run("copper", "up", "--fake")
            assert "names at" not in said
            health = Client(from_environment(two.environment)).health()
            assert health.dns == ""
            assert health.dns_reason == (
                f"cannot answer names at 127.0.0.1:{port}: Address already in use"
            )
            two.run("gc-vc", "create", "a", "--image", "micro")


def test_names_can_be_switched_off() -> None:
    with named_copper(COPPER_DNS="off") as copper:
        assert "names at" not in copper.run("copper", "up", "--fake")
        assert not servers_of(copper.folder)
        assert not (copper.folder / "run/dns.sock").exists()


async def test_inside_names_are_private_and_right_again_after_whatever_was_killed(
    copper: NamedCopper,
) -> None:
    """Sockets of loopback stand for those of a virtual cluster's network."""
    node, _ = copper.up()
    await asyncio.to_thread(fork, copper, "a", 4)
    wanted = [f"10.0.0.{number}" for number in range(1, 6)]
    with bound(Address("127.0.0.1", 0)) as mine:
        async with lent(copper.folder / "run/dns.sock", "a", mine.udp, mine.tcp) as served:

            async def right(addresses: list[str]) -> None:
                async with asyncio.timeout(WAIT_S):
                    await served.wait()
                await asyncio.to_thread(await_names, mine.at.port, "a", addresses)
                assert await asyncio.to_thread(dig, mine.at.port, "a-3.clusters") == ["10.0.0.4"]
                last = await asyncio.to_thread(dig, mine.at.port, "-x", addresses[-1])
                assert last == [f"a-{int(addresses[-1].rpartition('.')[2]) - 1}.clusters."]

            await right(wanted)
            (server,) = servers_of(copper.folder)
            os.kill(server, signal.SIGKILL)
            await asyncio.to_thread(ended, server)
            await right(wanted)
            assert servers_of(copper.folder) != [server]
            servers = servers_of(copper.folder)
            os.kill(node, signal.SIGKILL)
            for pid in (node, *servers):
                await asyncio.to_thread(ended, pid)
            await asyncio.to_thread(copper.up)
            await asyncio.to_thread(copper.run, "gc-vm", "kill", "a-4")
            await right(wanted[:-1])


async def test_inside_names_are_answered_also_where_the_address_outside_is_anothers() -> None:
    port = free_port()
    with named_copper(COPPER_DNS=f"127.0.0.1:{port}") as one, bound(Address("127.0.0.1", port)):
        assert "names at" not in one.run("copper", "up", "--fake")
        await asyncio.to_thread(one.run, "gc-vc", "create", "a", "--image", "micro")
        await asyncio.to_thread(one.run, "gc-vc", "boot", "a")
        with bound(Address("127.0.0.1", 0)) as mine:
            async with lent(one.folder / "run/dns.sock", "a", mine.udp, mine.tcp):
                await asyncio.to_thread(await_names, mine.at.port, "a", ["10.0.0.1"])


async def test_outside_names_are_for_virtual_clusters_that_may_go_there() -> None:
    with named_copper() as other, named_copper(COPPER_DOMAIN="vms.example.org") as copper:
        _, elsewhere = other.up()
        fork(other, "far", 1)
        await_names(elsewhere, "far", public(other, "far"))
        copper.environment["COPPER_DNS_FORWARD"] = f"127.0.0.1:{elsewhere}"
        copper.up()
        for cluster, egress in (("out", "open"), ("part", "127.0.0.0/8"), ("kept", "none")):
            copper.run("gc-vc", "create", cluster, "--image", "micro", "--egress", egress)
            copper.run("gc-vc", "boot", cluster)
            with bound(Address("127.0.0.1", 0)) as mine:
                path = copper.folder / "run/dns.sock"
                async with lent(path, cluster, mine.udp, mine.tcp):
                    own = f"{cluster}-0.vms.example.org"
                    await asyncio.to_thread(await_names, mine.at.port, own, ["10.0.0.1"])
                    for tcp in (False, True):
                        answer = await asyncio.to_thread(ask, mine.at.port, "far.clusters", tcp=tcp)
                        if egress == "none":
                            assert answer.rcode() == dns.rcode.REFUSED
                        else:
                            assert texts(answer) == public(other, "far")
                    if egress == "none":
                        await asyncio.to_thread(copper.run, "gc-vc", "egress", cluster, "open")
                        wanted = public(other, "far")
                        await asyncio.to_thread(await_names, mine.at.port, "far.clusters", wanted)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"COPPER_DNS": "localhost:53"}, "COPPER_DNS='localhost:53' (expected ADDRESS:PORT"),
        ({"COPPER_DNS": "0.0.0.0:53"}, "expected one address of this machine"),
        ({"COPPER_DOMAIN": "a..b"}, "COPPER_DOMAIN='a..b'"),
        ({"COPPER_DNS_FORWARD": "::1:53"}, "COPPER_DNS_FORWARD='::1:53'"),
    ],
)
def test_settings_that_are_none_are_refused(settings: dict[str, str], said: str) -> None:
    with named_copper(**settings) as copper:
        done = subprocess.run(
            [sys.executable, "-m", "copper.node"],
            env={**copper.environment, "COPPER_FAKE": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert said in done.stderr


def test_another_domain_and_names_of_others_from_another_server() -> None:
    with named_copper() as other, named_copper(COPPER_DOMAIN="vms.Example.org") as copper:
        _, elsewhere = other.up()
        fork(other, "far", 1)
        await_names(elsewhere, "far", public(other, "far"))
        copper.environment["COPPER_DNS_FORWARD"] = f"127.0.0.1:{elsewhere}"
        _, port = copper.up()
        fork(copper, "near", 1)
        await_names(port, "near.vms.example.org", public(copper, "near"))
        for tcp in (False, True):
            answer = ask(port, "far.clusters", tcp=tcp)
            assert texts(answer) == public(other, "far")
            assert ask(port, "far-9.clusters", tcp=tcp).rcode() == dns.rcode.NXDOMAIN
            assert ask(port, "nobody.vms.example.org", tcp=tcp).rcode() == dns.rcode.NXDOMAIN
        assert dig(port, "-q", "near", "+norecurse") == dig(port, "near.vms.example.org")
        # nobody is asked for those who do not want it
        assert dig(port, "far.clusters", "+norecurse") == []
        other.run("copper", "down")
        assert ask(port, "far.clusters").rcode() == dns.rcode.SERVFAIL


def test_copper_dns_answers_for_a_copper_elsewhere(copper: NamedCopper, tmp_path: Path) -> None:
    copper.up()
    fork(copper, "a", 2)
    code = "from copper.cli.copper import main; main()"
    server = subprocess.Popen(
        [sys.executable, "-c", code, "dns"],
        env=copper.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        said = server.stdout.readline()
        assert said.startswith("names below clusters are answered at 127.0.0.1:")
        port = int(said.strip().rpartition(":")[2])
        await_names(port, "a", public(copper, "a"))
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
