"""The commands and the client against the whole API, with fake machines behind it."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import tempfile
from collections.abc import Iterator

import pytest

from copper.cli import copper, gc_host, gc_vc, gc_vm, here
from copper.cli.node.up import ensure_up
from copper.cli.run import run
from copper.client import Client
from copper.client.target import remote
from copper.model.errors import Conflict, NotFound, Refused, TooOld
from copper.model.operations import Change
from copper.model.users import Quota

GROUPS = {
    str(group.name): group for group in (gc_vc.group, gc_vm.group, gc_host.group, copper.group)
}


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """A Copper serves where this environment leads, until the end of this module's tests."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="cu-") as folder, pytest.MonkeyPatch.context() as patch:
        environment = {
            "COPPER_RUN_DIR": f"{folder}/run",
            "COPPER_STATE_DIR": f"{folder}/state",
            "COPPER_FAKE": "1",
            "COPPER_FAKE_HOSTS": "2",
            "COPPER_LISTEN": listen,
            "COPPER_TAGS": "ssd,quick",
            "COPPER_STORAGE": "fast",
        }
        for name, value in environment.items():
            patch.setenv(name, value)
        ensure_up(here.settings())
        yield environment
        with pytest.raises(SystemExit) as ended:
            run(copper.group, "copper", ["down"])
        assert not ended.value.code


class Node:
    """The Copper of these tests, and who asks it."""

    def __init__(self, listen: str, capfd: pytest.CaptureFixture[str]) -> None:
        self.url = f"http://{listen}"
        self._capfd = capfd

    def __call__(self, line: str, token: str = "") -> tuple[int, str, str]:
        """A command line as root's, or over the network with a token."""
        name, *argv = line.split()
        self._capfd.readouterr()
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            if token:
                patch.setenv("COPPER_URL", self.url)
                patch.setenv("COPPER_TOKEN", token)
            run(GROUPS[name], name, argv)
        out, err = self._capfd.readouterr()
        return int(ended.value.code or 0), out, err

    def says(self, line: str, token: str = "") -> str:
        """What a command prints that must succeed."""
        status, out, err = self(line, token)
        assert (status, err) == (0, ""), line
        return out

    @property
    def client(self) -> Client:
        return Client()

    def client_of(self, token: str) -> Client:
        return Client(remote(self.url, token))


@pytest.fixture
def node(environment: dict[str, str], capfd: pytest.CaptureFixture[str]) -> Node:
    return Node(environment["COPPER_LISTEN"], capfd)


def test_a_virtual_cluster_s_life(node: Node) -> None:
    node.says("gc-vc create web --image micro --max-vms 3 --max-memory 4096 --require-storage fast")
    assert node.says("gc-vc boot web") == "web-0\n"
    assert node.says("gc-vm clone web-0 2") == "web-1\nweb-2\n"
    status, out, err = node("gc-vm clone web-0 1")
    assert (status, out, err.count("\n")) == (4, "", 1)
    node.says("gc-vc limit web --max-vms 5 --max-memory none")
    limits = json.loads(node.says("gc-vc show web --format json"))["limits"]
    assert limits == {"vms": 5, "cpus": None, "memory_mib": None}
    node.says("gc-vc limit web --vm-memory 512")
    node.says("gc-vc limit web --vm-cpus 1.5")
    vm_limits = json.loads(node.says("gc-vc limit web --format json"))["vm_limits"]
    assert vm_limits == {"cpus": 1.5, "own_bytes": 512 << 20}
    for verb, state in (
        ("pause", "paused"),
        ("unpause", "running"),
        ("suspend", "suspended"),
        ("resume", "running"),
    ):
        assert node.says(f"gc-vc {verb} web") == "web-0\nweb-1\nweb-2\n"
        assert node.says(f"gc-vm list web --state {state} --format name").count("\n") == 3
    node.says("gc-vm kill web-1")
    assert node.says("gc-vm list web --format name") == "web-0\nweb-2\n"
    operation = node.says("gc-vc kill web --no-wait").strip()
    assert node.says(f"copper operation wait {operation} --timeout 60s") == ""
    assert operation in node.says("copper operation list web --state done --format name")
    assert node(f"copper operation cancel {operation}")[0] == 5
    assert node.says("gc-vc usage web --format name") == "web\n"
    node.says("gc-vc delete web")
    assert node("gc-vc show web")[0] == 3


def test_a_host_s_numbers(node: Node) -> None:
    node.says("gc-vc create big --image micro --require-storage fast")
    node.says("gc-vc boot big")
    host = json.loads(node.says("gc-vm show big-0 --format json"))["host"]
    stat = node.says(f"gc-host stat {host}")
    lines = dict(re.findall(r"^ *(.+?) (\d+ of .*|\[.*\])$", stat, re.MULTILINE))
    assert len(lines) == 9
    assert lines["CPU(s)"].startswith("1 of ")
    assert lines["RAM"].startswith("256 of ")
    assert lines["Available Tags"] == "['ssd', 'quick']"
    assert lines["Available Named Storage"] == lines["Used Named Storage"] == "['fast']"
    rows = node.says("gc-host list --format csv").splitlines()
    assert rows[0].split(",")[4:8] == [
        "reserved_cpus",
        "memory_bytes",
        "free_bytes",
        "reserved_bytes",
    ]
    (mine,) = (row.split(",") for row in rows if row.startswith(f"{host},"))
    assert mine[4] == "1"
    assert int(mine[7]) > 0
    node.says("gc-vc kill big")
    node.says("gc-vc delete big")


@pytest.fixture
def ann(node: Node) -> Iterator[str]:
    """The token of a user with few VMs."""
    node.says("copper user create ann --max-vms 2")
    yield node.says("copper token create ann --expires 1h --note test").strip()
    for cluster in node.client.clusters(owner="ann"):
        node.client.kill(cluster.name)
        node.client.delete(cluster.name)
    node.client.delete_user("ann")


def test_a_user_sees_and_touches_their_own(node: Node, ann: str) -> None:
    node.says("gc-vc create theirs --image micro")
    assert node.says("copper whoami", ann) == "name  ann\nrole  user\n"
    node.says("gc-vc create mine --image micro", ann)
    assert node.says("gc-vc boot mine", ann) == "mine-0\n"
    assert node.says("gc-vm exec mine-0 -- gc vmid", ann) == "0\n"
    assert node.says("gc-vc list --format name", ann) == "mine\n"
    assert node.says("gc-vc list --owner ann --format name") == "mine\n"
    for line, status in (
        ("gc-vc show theirs", 3),
        ("gc-vc delete theirs", 3),
        ("gc-vm clone mine-0 2", 4),  # above the quota
        ("gc-vc create more --image micro --owner root", 4),
        ("gc-host list", 4),
        ("copper user list", 4),
        ("copper audit", 4),
    ):
        said = node(line, ann)
        assert (said[0], said[1], said[2].count("\n")) == (status, "", 1), line
    node.says("copper user change ann --max-vms 3")
    node.says("gc-vm clone mine-0 2", ann)
    id = node.says("copper token list ann --format name").strip()
    node.says(f"copper token revoke ann {id}")
    status, _, err = node("gc-vc list", ann)
    assert (status, "the token is not accepted" in err) == (4, True)
    assert node("copper user delete ann")[0] == 5
    node.says("gc-vc delete theirs")


def test_tickets_and_events(node: Node) -> None:
    client = node.client
    client.create("t", "micro")
    client.boot("t")
    ticket = client.request_ticket("t-0", 2, minvms=1)
    assert ticket.id in node.says("copper ticket list t --format name").split()
    node.says(f"copper ticket release {ticket.id}")
    assert node(f"copper ticket release {ticket.id}")[0] == 3
    clones = client.clone_vm("t-0", count=2)
    assert [vm.name for vm in clones] == ["t-1", "t-2"]
    client.kill("t")
    client.delete("t")
    seen: list[Change] = []
    with client.events("t", after="0") as changes:
        while not seen or (seen[-1].kind, seen[-1].change) != ("cluster", "deleted"):
            seen.append(next(changes))
    gone = [change.name for change in seen if (change.kind, change.change) == ("vm", "deleted")]
    assert sorted(gone) == ["t-0", "t-1", "t-2"]


def test_events_go_on_where_they_were_when_copper_is_killed(node: Node) -> None:
    client = node.client
    with client.events() as changes:
        client.create_user("eve")
        first = next(changes)
        process = os.pidfd_open(client.health().pid)
        signal.pidfd_send_signal(process, signal.SIGKILL)
        assert select.select([process], [], [], 30)[0]
        os.close(process)
        node.says("copper up")
        client.change_user("eve", quota=Quota(vms=1))
        client.delete_user("eve")
        second, third = next(changes), next(changes)
        assert [one.change for one in (first, second, third)] == ["put", "put", "deleted"]
        assert second.body is not None
        assert second.body["quota"]["vms"] == 1
    with pytest.raises(TooOld):
        client.events(after="999999999.0")


def test_a_user_s_client(node: Node, ann: str) -> None:
    client = node.client_of(ann)
    assert client.whoami().role == "user"
    client.create("mine", "micro")
    operation = client.boot("mine", wait=False)
    assert client.wait_operation(operation.id).state == "done"
    with pytest.raises(Conflict):
        client.boot("mine")
    with pytest.raises(Refused):
        client.hosts()
    with pytest.raises(NotFound):
        client.vm("other-0")
    assert [vm.owner for vm in client.iter_vms()] == ["ann"]
    assert client.run("mine-0", ["gc", "vmid"]).stdout == b"0\n"
    with pytest.raises(Refused, match="the token is not accepted"):
        node.client_of("cu_x_y").run("mine-0", ["gc", "vmid"])
    assert client.health().version
