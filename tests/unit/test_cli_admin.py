"""The commands of administrators: what they ask of Copper, and each byte of what they print."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from copper.cli import copper, gc_host, gc_vc, gc_vm
from copper.cli.run import run
from tests.unit import fake_bodies
from tests.unit.fake_api import SECRET, SENT, fake_copper

GROUPS = {
    str(group.name): group for group in (gc_vc.group, gc_vm.group, gc_host.group, copper.group)
}
TICKET = fake_bodies.TICKET["id"]


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    with fake_copper() as (environment, _), pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment, "TZ": "UTC"}.items():
            patch.setenv(name, value)
        yield


def say(capfd: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    """Runs a command line here: exit status, standard output, standard error."""
    SENT.clear()
    name, *argv = line.split(" ")
    with pytest.raises(SystemExit) as ended:
        run(GROUPS[name], name, argv)
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), out, err


def changes() -> list[tuple[str, str, Any]]:
    """What the last command asked to be changed."""
    return [(sent.method, sent.path, sent.body) for sent in SENT if sent.method != "GET"]


NO_LIMITS = {"vms": None, "cpus": None, "memory_mib": None}
ASKED = {
    "gc-vc create new --image micro --memory 64 --cpus 2": (
        "POST",
        "/v1/clusters",
        {
            "name": "new",
            "image": "micro",
            "memory_mib": 64,
            "cpus": 2,
            "memory_class": "shared",
            "placement": "near",
            "requires": {"tags": [], "networks": [], "storage": []},
            "limits": NO_LIMITS,
        },
    ),
    "gc-vc create new --image micro --memory-class guaranteed --placement spread --require-tag a"
    " --require-tag b --require-network lan --require-storage big --max-vms 3 --max-cpus 4"
    " --max-memory 512 --owner ann": (
        "POST",
        "/v1/clusters",
        {
            "name": "new",
            "image": "micro",
            "memory_class": "guaranteed",
            "placement": "spread",
            "requires": {"tags": ["a", "b"], "networks": ["lan"], "storage": ["big"]},
            "limits": {"vms": 3, "cpus": 4, "memory_mib": 512},
            "owner": "ann",
        },
    ),
    "gc-vc create new --image micro --network public --network lan,master-only"
    " --egress 192.0.2.0/24": (
        "POST",
        "/v1/clusters",
        {
            "name": "new",
            "image": "micro",
            "memory_class": "shared",
            "placement": "near",
            "requires": {"tags": [], "networks": [], "storage": []},
            "limits": NO_LIMITS,
            "networks": [
                {"name": "public", "master_only": False},
                {"name": "lan", "master_only": True},
            ],
            "egress": "192.0.2.0/24",
        },
    ),
    "copper network create public --pool 198.51.100.8-198.51.100.11 --pool 2001:db8::1"
    " --bridge br0": (
        "POST",
        "/v1/networks",
        {
            "name": "public",
            "pool": ["198.51.100.8-198.51.100.11", "2001:db8::1"],
            "mode": "nat",
            "bridge": "br0",
        },
    ),
    "copper network create lan --pool 192.0.2.0/28 --routed": (
        "POST",
        "/v1/networks",
        {"name": "lan", "pool": ["192.0.2.0/28"], "mode": "routed", "bridge": ""},
    ),
    "copper network delete public": ("DELETE", "/v1/networks/public", None),
    "gc-vc forward demo 1 5353:53 --udp": (
        "POST",
        "/v1/clusters/demo/forwards",
        {"vmid": 1, "host_port": 5353, "port": 53, "protocol": "udp"},
    ),
    "gc-vc forward demo --remove 8080": (
        "DELETE",
        "/v1/clusters/demo/forwards/tcp/8080",
        None,
    ),
    # demo has at most 20 VMs and 4096 MiB, each 512 MiB of its own: what is not given stays
    "gc-vc limit demo --max-cpus 7 --max-memory none": (
        "PUT",
        "/v1/clusters/demo/limits",
        {"limits": {"vms": 20, "cpus": 7, "memory_mib": None}},
    ),
    "gc-vc limit demo --vm-cpus 1.5 --vm-memory 64": (
        "PUT",
        "/v1/clusters/demo/limits",
        {"vm_limits": {"cpus": 1.5, "own_bytes": 64 << 20}},
    ),
    "gc-vc limit demo --vm-cpus 2": (
        "PUT",
        "/v1/clusters/demo/limits",
        {"vm_limits": {"cpus": 2.0, "own_bytes": 512 << 20}},
    ),
    "copper user create bob --max-vms 3": (
        "POST",
        "/v1/users",
        {"name": "bob", "role": "user", "quota": {**NO_LIMITS, "vms": 3}},
    ),
    "copper user change ann --role admin": ("PATCH", "/v1/users/ann", {"role": "admin"}),
    "copper user change ann --max-cpus 7": (
        "PATCH",
        "/v1/users/ann",
        {"quota": {"vms": 100, "cpus": 7, "memory_mib": None}},
    ),
    "copper user delete ann": ("DELETE", "/v1/users/ann", None),
    "copper token revoke ann k3x9": ("DELETE", "/v1/users/ann/tokens/k3x9", None),
    "copper operation cancel op-1": ("POST", "/v1/operations/op-1/cancel", None),
    f"copper ticket release {TICKET}": ("DELETE", f"/v1/tickets/{TICKET}", None),
    "gc-vm kill demo-1": ("POST", "/v1/vms/demo-1/kill", None),
}


@pytest.mark.parametrize("line", ASKED)
def test_what_is_asked(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert say(capfd, line) == (0, "", "")
    assert changes() == [ASKED[line]]


@pytest.mark.parametrize(
    ("line", "expires_in_s", "note"),
    [
        ("copper token create ann", 90 * 86400, ""),
        ("copper token create ann --expires 12h --note ci", 43200, "ci"),
        ("copper token create ann --expires none", None, ""),
    ],
)
def test_a_token_s_secret_is_printed_alone(
    line: str, expires_in_s: float | None, note: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert say(capfd, line) == (0, f"{SECRET}\n", "")
    expected = {"expires_in_s": expires_in_s, "note": note}
    assert changes() == [("POST", "/v1/users/ann/tokens", expected)]


@pytest.mark.parametrize("verb", ["pause", "unpause", "suspend", "resume"])
def test_whole_virtual_clusters(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert say(capfd, f"gc-vc {verb} demo") == (0, "demo-0\ndemo-1\ndemo-2\n", "")
    assert changes() == [("POST", f"/v1/clusters/demo/{verb}", None)]
    assert "prefer" not in SENT[0].headers
    assert say(capfd, f"gc-vc {verb} demo --no-wait") == (0, "op-1\n", "")
    assert SENT[0].headers["prefer"] == "respond-async"


PRINTED = {
    "gc-vc limit demo": """\
vms                   20
cpus                  no limit
memory (MiB)          4096
cpus of a vm          no limit
memory of a vm (MiB)  512
""",
    "gc-host list": """\
NAME  VMS  STANDBYS  CPUS  PROMISED    MEMORY      FREE  PROMISED  ACCELERATOR  QEMU    TAGS
here    2         1     4         4  5631 MiB  2048 MiB   128 MiB  tcg          7.2.22  ssd rack-1
""",
    "gc-host stat here --format csv": """\
name,vms,standbys,cpus,memory_bytes,free_bytes,accelerator,qemu,tags
here,2,1,4,5904531456,2147483648,tcg,7.2.22,ssd rack-1
""",
    "gc-vm clone demo-0 2": "demo-1\ndemo-2\n",
    "gc-vm clone demo-0 2 --no-wait": "op-1\n",
    "gc-vc usage": """\
CLUSTER  OWNER  VM HOURS  CPU SECONDS  MEMORY GIB H  OWN GIB H  SHARED GIB H  DISK READ  WRITTEN\
  RECEIVED     SENT  FROM                 TO
demo     ann        2.00         12.3         0.500      1.000         0.000    1.0 MiB  3.0 MiB\
   0.0 MiB  0.0 MiB  2023-11-14 22:13:20  2023-11-15 00:13:20
""",
    "gc-vc usage --by user --format name": "ann\n",
    "gc-vc usage demo --format name": "demo\n",
    "copper whoami": "name  ann\nrole  user\n",
    "copper network list": """\
NAME    MODE  BRIDGE  SIZE  LEFT  HOSTS  POOL
public  nat   br0        4     2  here   198.51.100.8-198.51.100.11 2001:db8::1
six     -     -          -     -  -      -
""",
    "copper network list --format name": "public\nsix\n",
    "copper network show public": """\
name     public
mode     nat
bridge   br0
size     4
left     2
hosts    here
pool     198.51.100.8-198.51.100.11 2001:db8::1
created  2023-11-14 22:13:20
leases   198.51.100.9 demo-0, 198.51.100.10 demo-1
""",
    "gc-vc forward demo": """\
HOST PORT  PROTOCOL  VMID  PORT
     8080  tcp          0    80
""",
    "copper user list": """\
NAME  ROLE        VMS      CPUS  MEMORY (MIB)  CREATED
ann   user        100  no limit      no limit  2023-11-14 22:13:20
root  admin  no limit  no limit      no limit  2023-11-14 22:13:20
""",
    "copper user show ann --format csv": """\
name,role,quota_vms,quota_cpus,quota_memory_mib,created
ann,user,100,,,1700000000.0
""",
    "copper token list ann": """\
ID    USER  NOTE  CREATED              EXPIRES
k3x9  ann   ci    2023-11-14 22:13:20  never
""",
    "copper operation list --format name": "op-1\nop-2\nop-3\nop-4\n",
    "copper operation list demo --state failed": """\
ID    KIND  CLUSTER  OWNER  STATE   DONE  OF  CREATED              ENDED
op-3  boot  demo     ann    failed     1   2  2023-11-14 22:13:20  2023-11-14 22:13:21
""",
    "copper operation wait op-2": "",
    "copper ticket list demo": f"""\
ID                                    CLUSTER  HOLDER  STATUS   VMS  CPUS    PER VM  HOSTS   OWNER\
  CREATED
{TICKET}  demo          0  granted    2     2  32.0 MiB  here:2  ann    2023-11-14 22:13:20
""",
}


@pytest.mark.parametrize("line", PRINTED)
def test_what_is_printed(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert say(capfd, line) == (0, PRINTED[line], "")


def test_json_is_the_api_s_own_body(capfd: pytest.CaptureFixture[str]) -> None:
    for line, body in (
        ("gc-vc usage", [fake_bodies.USAGE]),
        ("gc-vc limit demo", fake_bodies.CLUSTERS["demo"]),
        ("copper user list", list(fake_bodies.USERS.values())),
        ("copper token list ann", [fake_bodies.TOKEN]),
        ("copper operation list", list(fake_bodies.OPERATIONS.values())),
        ("copper operation show op-3", fake_bodies.OPERATIONS["op-3"]),
        ("copper ticket list", [fake_bodies.TICKET]),
    ):
        status, out, err = say(capfd, f"{line} --format json")
        assert (status, err) == (0, "")
        assert json.loads(out) == body


def test_usage_asks_for_a_time(capfd: pytest.CaptureFixture[str]) -> None:
    say(capfd, "gc-vc usage demo --by user --since 2023-01-01 --until 2023-01-02T12:00")
    assert SENT[0].query == {
        "cluster": "demo",
        "by": "user",
        "begin": "1672531200.0",
        "end": "1672660800.0",
    }


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("copper operation wait op-3", 4, "copper: no room for it\n"),
        ("copper operation wait op-4", 5, "copper: operation op-4 was cancelled\n"),
        (
            "copper operation wait op-1 --timeout 1s",
            6,
            "copper: operation op-1 runs on after 1 s\n",
        ),
        ("copper operation cancel op-2", 5, "copper: operation op-2 is over\n"),
        ("copper operation show nosuch", 3, "copper: there is no operation 'nosuch'\n"),
        ("copper ticket release nosuch", 3, "copper: there is no ticket 'nosuch'\n"),
        ("copper user show nosuch", 3, "copper: there is no user 'nosuch'\n"),
        ("copper token create nosuch", 3, "copper: there is no user 'nosuch'\n"),
        ("gc-vc limit nosuch --max-vms 1", 3, "gc-vc: there is no virtual cluster 'nosuch'\n"),
        ("gc-vm clone demo-9 1", 3, "gc-vm: there is no VM 'demo-9'\n"),
        (
            "gc-vm kill demo-1 demo-8 demo-9",
            7,
            (
                "gc-vm: there is no VM 'demo-8'\n"
                "gc-vm: there is no VM 'demo-9'\n"
                "gc-vm: 1 of 3 VMs were ended\n"
            ),
        ),
        (
            "copper events --after 1.0",
            5,
            "copper: changes before 5.0 are forgotten (list, and begin anew)\n",
        ),
    ],
)
def test_errors(line: str, status: int, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert say(capfd, line) == (status, "", said)


def test_events_are_lines_of_json_until_copper_forgot(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = say(capfd, "copper events")
    assert [json.loads(line) for line in out.splitlines()] == fake_bodies.CHANGES
    assert (status, err) == (5, "copper: forgotten\n")
    # each connection gave one change; the next one asked for what comes after it
    after = [sent.headers.get("last-event-id") for sent in SENT]
    assert after == [None, "7.0", "8.0", "9.0"]


@pytest.fixture
def differences(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the audit finds: a test may change it."""
    found = [dict(one) for one in fake_bodies.DIFFERENCES]
    monkeypatch.setattr("tests.unit.fake_api.DIFFERENCES", found)
    return found


def test_an_audit_s_exit_status(
    differences: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    table = """\
THING    NAME      HOST  DIFFERENCE        MEND    MENDED
process  4711      here  a QEMU of nobody  end it  {}
overlay  /x.qcow2  here  a disk of nobody  -       no
"""
    assert say(capfd, "copper audit") == (5, table.format("no"), "")
    assert changes() == []
    assert say(capfd, "copper audit --repair") == (7, table.format("yes"), "")
    del differences[1]
    assert say(capfd, "copper audit --repair --format name") == (0, "4711\n", "")
    assert say(capfd, "copper audit --format name") == (5, "4711\n", "")
    del differences[0]
    assert say(capfd, "copper audit") == (0, "", "")
    assert say(capfd, "copper audit --format json") == (0, "[]\n", "")
