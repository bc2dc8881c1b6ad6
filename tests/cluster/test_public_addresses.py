"""Public networks by the commands that people give, to a fake Copper whose names dig asks for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from copper.client import Client
from copper.model.settings import from_environment
from tests.cluster.names import NETWORK, NamedCopper, dig, named_copper

TEN = [f"198.51.100.{number}" for number in range(1, 11)]


@pytest.fixture
def copper() -> Iterator[NamedCopper]:
    with named_copper(COPPER_NETWORKS=f"{NETWORK},ten") as made:
        yield made


def refused(copper: NamedCopper, *argv: str) -> tuple[int, str]:
    """The exit status and what it said of a command that fails."""
    code = f"from copper.cli.{argv[0].replace('-', '_')} import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *argv[1:]],
        env=copper.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def rows(copper: NamedCopper, *argv: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(copper.run(*argv, "--format", "json"))
    return found


def await_addresses(copper: NamedCopper, port: int, wanted: list[str]) -> None:
    """Asks after each event of the API until the virtual cluster's name has these."""
    with Client(from_environment(copper.environment)).raw.events() as events:
        if sorted(dig(port, "web")) == wanted:
            return
        for _ in events:
            if sorted(dig(port, "web")) == wanted:
                return


def test_ten_machines_have_ten_addresses_and_there_is_no_eleventh(copper: NamedCopper) -> None:
    node, port = copper.up()
    copper.run("copper", "network", "create", "ten", "--pool", "198.51.100.1-198.51.100.10")
    assert [row["name"] for row in rows(copper, "copper", "network", "list")] == [NETWORK, "ten"]
    create = ("gc-vc", "create")
    copper.run(*create, "web", "--image", "micro", "--network", "ten")
    copper.run(*create, "db", "--image", "micro", "--network", "ten,master-only")
    assert refused(copper, *create, "x", "--image", "micro", "--network", "none")[0] == 3
    assert refused(copper, *create, "x", "--image", "micro", "--network", "ten,all")[0] == 2
    copper.run("gc-vc", "boot", "web")
    copper.run("gc-vm", "exec", "web-0", "--", "gc", "clone", "9")
    await_addresses(copper, port, sorted(TEN))
    status, said = refused(copper, "gc-vc", "boot", "db")
    assert (status, said.count("\n")) == (4, 1)
    assert "network ten has 0 addresses left, not 1" in said
    assert refused(copper, "gc-vm", "clone", "web-0", "1")[0] == 4
    asked = refused(copper, "gc-vm", "exec", "web-0", "--", "gc", "rt", "1", "1", "1", "0")
    assert asked[0] == 16 and "network ten has 0 addresses left" in asked[1]
    assert refused(copper, "copper", "network", "delete", "ten")[0] == 5
    shown = json.loads(copper.run("copper", "network", "show", "ten", "--format", "json"))
    assert [one["address"] for one in shown["leases"]] == TEN
    assert "198.51.100.1 web-0" in copper.run("copper", "network", "show", "ten")
    assert "198.51.100.4" in copper.run("gc-vm", "show", "web-3")
    assert "ten,master-only" in copper.run("gc-vc", "show", "db")

    # who is killed: all have the same addresses, and what hosts do is what they were told
    before = copper.vms()
    os.kill(node, signal.SIGKILL)
    _, port = copper.up()
    assert copper.vms() == before
    await_addresses(copper, port, sorted(TEN))
    assert copper.run("copper", "audit") == ""
    copper.run("gc-vc", "suspend", "web")
    assert refused(copper, "gc-vc", "boot", "db")[0] == 4
    copper.run("gc-vc", "resume", "web")
    await_addresses(copper, port, sorted(TEN))
    assert copper.run("copper", "audit") == ""

    copper.run("gc-vm", "kill", "web-4", "web-7")
    await_addresses(copper, port, sorted({*TEN} - {TEN[4], TEN[7]}))
    copper.run("gc-vc", "boot", "db")
    copper.run("gc-vm", "clone", "db-0", "3")
    assert rows(copper, "gc-vm", "list", "db")[0]["public"] == [TEN[4]]
    assert [row["public"] for row in rows(copper, "gc-vm", "list", "db")][1:] == [[], [], []]
    for name in ("web", "db"):
        copper.run("gc-vc", "kill", name)
        copper.run("gc-vc", "delete", name)
    copper.run("copper", "network", "delete", "ten")
    assert copper.run("copper", "audit") == ""


def test_a_port_of_the_hosts_leads_to_a_machine(copper: NamedCopper) -> None:
    copper.up()
    copper.run("gc-vc", "create", "web", "--image", "micro", "--egress", "192.0.2.0/24")
    copper.run("gc-vc", "forward", "web", "0", "8080:80")
    copper.run("gc-vc", "forward", "web", "0", "5353:53", "--udp")
    assert refused(copper, "gc-vc", "forward", "web", "1", "8080:81")[0] == 5
    assert refused(copper, "gc-vc", "forward", "web", "1", "8080")[0] == 2
    assert refused(copper, "gc-vc", "forward", "web", "1")[0] == 2
    copper.run("gc-vc", "boot", "web")
    status = json.loads(copper.run("gc-vm", "show", "web-0", "--format", "json"))["status"]
    assert status["exposure"]["egress"] == ["192.0.2.0/24"]
    assert [one["host_port"] for one in status["exposure"]["forwards"]] == [5353, 8080]
    copper.run("gc-vc", "forward", "web", "--remove", "5353", "--udp")
    assert [one["host_port"] for one in rows(copper, "gc-vc", "forward", "web")] == [8080]
    assert refused(copper, "gc-vc", "forward", "web", "--remove", "5353")[0] == 3
    assert copper.run("copper", "audit") == ""

    assert "192.0.2.0/24" in copper.run("gc-vc", "egress", "web")
    copper.run("gc-vc", "egress", "web", "198.51.100.0/24,2001:db8::/32")
    copper.run("gc-vm", "clone", "web-0", "1")
    for vm in ("web-0", "web-1"):
        status = json.loads(copper.run("gc-vm", "show", vm, "--format", "json"))["status"]
        assert status["exposure"]["egress"] == ["198.51.100.0/24", "2001:db8::/32"]
    status_said = refused(copper, "gc-vc", "egress", "web", "all")
    assert status_said[0] == 2 and "egress 'all'" in status_said[1]
    assert refused(copper, "gc-vc", "egress", "none", "none")[0] == 3
    assert copper.run("copper", "audit") == ""
    copper.run("gc-vc", "kill", "web")
    copper.run("gc-vc", "delete", "web")
    assert refused(copper, "gc-vc", "forward", "web")[0] == 3
