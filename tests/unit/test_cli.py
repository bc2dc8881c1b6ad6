"""The commands that ask and show: their exit status, and each byte of what they print."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from copper.cli import copper, gc_host, gc_vc, gc_vm
from copper.cli.run import run
from copper.cli.steps import Steps
from tests.unit import fake_bodies
from tests.unit.fake_api import fake_copper

GROUPS = {
    str(group.name): group for group in (gc_vc.group, gc_vm.group, gc_host.group, copper.group)
}
LONG = "a" * 300


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[dict[str, str]]:
    """A fake Copper that all commands of this module speak to."""
    with fake_copper() as (environment, _), pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment, "TZ": "UTC"}.items():
            patch.setenv(name, value)
        yield environment


Said = tuple[int, str, str]


def say(capfd: pytest.CaptureFixture[str], line: str | list[str]) -> Said:
    """Runs a command line here: exit status, standard output, standard error."""
    name, *argv = line.split(" ") if isinstance(line, str) else line
    with pytest.raises(SystemExit) as ended:
        run(GROUPS[name], name, argv)
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), out, err


TABLES = {
    "gc-vc list": """\
NAME   STATE    VMS  IMAGE        MEMORY  CPUS  OWNER
demo   running    2  micro       256 MiB     1  ann
empty  defined    0  debian-12  1024 MiB     1  root
""",
    "gc-vc list --owner ann --format name": "demo\n",
    "gc-vc list --state defined --format name": "empty\n",
    "gc-vm list": """\
NAME    VMID  ADDRESS   GENERATION  PARENT  STATE    HOST  PUBLIC
demo-0     0  10.0.0.1           0       -  running  here  -
demo-1     1  10.0.0.2           1       0  running  here  -
demo-2     2  10.0.0.3           2       0  dead     here  -
""",
    "gc-vm list demo --state dead --format name": "demo-2\n",
    "gc-vm list empty": "NAME  VMID  ADDRESS  GENERATION  PARENT  STATE  HOST  PUBLIC\n",
    "gc-vm list --format csv": """\
name,vmid,ip,generation,parent,state,host,public
demo-0,0,10.0.0.1,0,,running,here,
demo-1,1,10.0.0.2,1,0,running,here,
demo-2,2,10.0.0.3,2,0,dead,here,
""",
    "gc-vm list demo --format name": "demo-0\ndemo-1\ndemo-2\n",
    "gc-vm list empty --format name": "",
    "gc-vm list empty --format json": "[]\n",
    "gc-vc list --format name": "demo\nempty\n",
    "gc-vc list --format csv": """\
name,state,vms,image,shape_memory_mib,shape_cpus,owner
demo,running,2,micro,256,1,ann
empty,defined,0,debian-12,1024,1,root
""",
    "gc-vc show empty --format name": "empty\n",
    "gc-vm show demo-2": """\
name            demo-2
vmid            2
address         10.0.0.3
generation      2
parent          0
state           dead
host            here
public          -
address (IPv6)  -
owner           ann
ticket          6f9619ff-8b86-d011-b42d-00c04fc964ff
reason          it crashed
created         2023-11-14 22:13:20
memory          -
own memory      -
shared memory   -
cpus            -
image           -
layers          -
disks           -
ready after     -
last pause      -
accelerator     -
pid             -
SSH host key    -
""",
    "gc-vm log demo-0": "boot\r\nlogin: ",
    "gc-vc create new --image micro": "",
    "gc-vc create new --image micro --memory 64 --cpus 2": "",
    "gc-vc boot empty": "empty-0\n",
    "gc-vc boot empty --no-wait": "op-1\n",
    "gc-vc kill demo": "demo-0\ndemo-1\ndemo-2\n",
    "gc-vc kill demo --no-wait": "op-1\n",
    "gc-vc kill empty": "",
    "gc-vc delete empty": "",
    "gc-vc delete empty --no-wait": "op-1\n",
    "gc-vc show demo": """\
name            demo
state           running
vms             2
image           micro
memory          256 MiB
cpus            1
owner           ann
memory class    shared
placement       near
needs tags      ssd
needs networks  -
needs storage   fast
networks        -
egress          -
most vms        20
most cpus       no limit
most memory     4096 MiB
disk            256 MiB
next vmid       2
created         2023-11-14 22:13:20
""",
    "gc-host list --format name": "here\n",
    # docs say which of these lines scripts cut their fields from
    "gc-host stat here": """\
                 CPU(s) 2 of 4 (50%)
                    RAM 512 of 5631 (9%)
             Local disk 352 of 183352 MB (0%)
Available Named Storage ['fast', 'big']
     Used Named Storage ['fast']
  Available PCI Devices []
       Used PCI Devices []
     Available Networks ['public']
         Available Tags ['ssd', 'rack-1']
""",
    "copper image list --format name": "micro\n",
    "gc-vm --version": "gc-vm 0.1.0\n",
}


@pytest.mark.parametrize("line", TABLES)
def test_what_is_printed(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert say(capfd, line) == (0, TABLES[line], "")


def test_json_is_the_api_s_own_body(capfd: pytest.CaptureFixture[str]) -> None:
    for line, body in (
        ("gc-vc list", list(fake_bodies.CLUSTERS.values())),
        ("gc-vc show demo", fake_bodies.CLUSTERS["demo"]),
        ("gc-vm list demo", list(fake_bodies.VMS.values())),
        (
            "gc-vm show demo-1",
            {**fake_bodies.VMS["demo-1"], "status": fake_bodies.STATUSES["demo-1"]},
        ),
        ("gc-vm show demo-2", {**fake_bodies.VMS["demo-2"], "status": None}),
        ("gc-host list", [fake_bodies.HOST]),
        ("gc-host stat here", fake_bodies.HOST),
        ("copper image list", [fake_bodies.IMAGE]),
    ):
        status, out, err = say(capfd, f"{line} --format json")
        assert (status, err) == (0, "")
        assert json.loads(out) == body


BAD_NAMES = ["", ".", "..", "a.b", "a/b", "../x", "a b", "A", "-a", "a-", "ä", LONG, "a\nb", "a\0b"]
BAD_VMS = [
    "",
    "demo",
    "demo-",
    "-0",
    "demo-x",
    "demo-0.5",
    "demo/0",
    "demo -0",
    f"{LONG}-0",
    "a--1",
]
BAD_NUMBERS = ["0", "-1", "x", "", "1e3", "99999999999999999999999", "1.5", "¹"]


@pytest.mark.parametrize(
    "line",
    [
        *(["gc-vc", verb, name] for verb in ("boot", "kill", "show") for name in BAD_NAMES[:-1]),
        *(["gc-vc", "create", name, "--image", "micro"] for name in BAD_NAMES),
        *(["gc-vc", "create", "a", "--image", name] for name in BAD_NAMES),
        *(["gc-vm", "list", name] for name in BAD_NAMES),
        *(["gc-vm", verb, vm] for verb in ("show", "log", "console") for vm in BAD_VMS),
        *(["gc-vm", "exec", vm, "--", "ls"] for vm in BAD_VMS),
        *(["gc-vm", "push", vm, "/etc/hostname", "/x"] for vm in BAD_VMS),
        *(
            ["gc-vc", "create", "a", "--image", "b", "--memory", mib]
            for mib in [*BAD_NUMBERS, "33"]
        ),
        *(
            ["gc-vc", "create", "a", "--image", "b", "--cpus", cpus]
            for cpus in [*BAD_NUMBERS, "65"]
        ),
        *(["copper", "image", "delete", name] for name in BAD_NAMES),
        *(["gc-vm", "clone", "demo-0", count] for count in [*BAD_NUMBERS, "1025"]),
        *(["gc-vc", "limit", "demo", "--max-vms", number] for number in BAD_NUMBERS),
        *(["gc-vc", "limit", "demo", "--vm-cpus", x] for x in ["0", "-1", "x", "", "1e3", "65"]),
        *(["gc-vc", "usage", "--since", when] for when in ["x", "", "7w", "2026-13-01", "0d"]),
        *(["gc-vc", "create", "a", "--image", "b", "--owner", name] for name in BAD_NAMES),
        *(["gc-vc", "create", "a", "--image", "b", "--require-tag", x] for x in ["", "a b", "a,b"]),
        *(["copper", "user", "create", name] for name in BAD_NAMES),
        *(["copper", "token", "create", "ann", "--expires", x] for x in ["", "x", "0", "1y", "-1"]),
        *(["copper", "operation", "show", id] for id in ["", "..", "a/b", "a b", "ä", LONG]),
        *(["copper", "ticket", "release", id] for id in ["", "..", "a/b", "a b", LONG]),
        ["gc-vc", "create", "a", "--image", "b", "--memory-class", "half"],
        ["gc-vc", "create", "a", "--image", "b", "--placement", "far"],
        ["gc-vc", "list", "--state", "fine"],
        ["gc-vm", "kill"],
        ["copper", "user", "change", "ann", "--role", "king"],
        ["copper", "user", "change", "ann"],
        ["copper", "events", "--after", "a b"],
        *(["copper", "bench", "fork", "--runs", runs] for runs in BAD_NUMBERS),
        ["gc-vm", "exec", "demo-0"],
        ["gc-vm", "exec", "demo-0", "--"],
        ["gc-vm", "exec", "demo-0", "-t", "ls"],
        ["gc-vm", "exec", "demo-0", "--", ""],
        ["gc-vm", "push", "demo-0", "/etc/hostname"],
        ["gc-vm", "push", "demo-0", "/etc/hostname", ""],
        ["gc-vm", "push", "demo-0", "/etc", "/x"],
        ["gc-vm", "push", "demo-0", "/etc/hostname", "x" * 5000],
        ["gc-vm", "pull", "demo-0", "/", "."],
        ["gc-vm", "pull", "demo-0", "", "."],
        ["gc-vm", "list", "--format", "xml"],
        ["gc-vm", "list", "--nosuch"],
        ["gc-vm", "list", "demo", "more"],
        ["gc-vm", "nosuch"],
        ["gc-vc", "create", "a"],
        ["gc-host", "stat", "a/b"],
        ["gc-host", "stat", ""],
        ["gc-host", "stat", LONG],
    ],
    ids=lambda line: " ".join(line)[:60].encode("unicode_escape").decode(),
)
def test_wrong_usage_is_one_line_and_asks_nothing(
    line: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPPER_RUN_DIR", "/nowhere")  # whatever is asked would give status 1
    status, out, err = say(capfd, line)
    assert (status, out) == (2, "")
    assert re.fullmatch(rf"{line[0]}: [^\n]+\n", err)
    assert len(err) < 300


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("gc-vc show nosuch", 3, "gc-vc: there is no virtual cluster 'nosuch'\n"),
        ("gc-vm list nosuch", 3, "gc-vm: there is no virtual cluster 'nosuch'\n"),
        ("gc-vm show demo-9", 3, "gc-vm: there is no VM 'demo-9'\n"),
        ("gc-vm log demo-9", 3, "gc-vm: there is no VM on this host 'demo-9'\n"),
        ("gc-vm console demo-9", 3, "gc-vm: there is no VM on this host 'demo-9'\n"),
        ("gc-vm exec demo-9 -- ls", 3, "gc-vm: there is no VM on this host 'demo-9'\n"),
        ("gc-host stat nosuch", 3, "gc-host: there is no host 'nosuch'\n"),
        (
            "gc-vc create a --image nosuch",
            3,
            "gc-vc: there is no image 'nosuch' (images: micro)\n",
        ),
        (
            "gc-vc create there --image micro",
            5,
            "gc-vc: virtual cluster 'there' exists\n",
        ),
        (
            "gc-vc boot demo",
            5,
            "gc-vc: virtual cluster 'demo' runs already (gc-vc kill demo ends it)\n",
        ),
        ("gc-vc boot full", 4, "gc-vc: no room for it (end others)\n"),
        ("gc-vc boot late", 6, "gc-vc: the agent did not answer within 60 s\n"),
        ("gc-vc boot broken", 1, "gc-vc: it broke in two lines (mend it)\n"),
        ("gc-vc show teapot", 1, "gc-vc: Copper answered with the HTTP status 418\n"),
        ("gc-vc show babble", 1, "gc-vc: Copper's answer is not JSON: b'<html>'\n"),
        ("copper image delete micro", 5, "copper: image micro is in use by demo\n"),
        ("copper image delete nosuch", 3, "copper: there is no image 'nosuch'\n"),
        ("gc-vm push demo-0 /nosuch /x", 3, "gc-vm: no file /nosuch\n"),
        ("gc-vm pull demo-0 /a /nosuch/", 3, "gc-vm: there is no folder /nosuch/\n"),
        ("gc-vm pull demo-0 /a /nosuch/b", 3, "gc-vm: there is no folder /nosuch\n"),
    ],
)
def test_errors(line: str, status: int, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert say(capfd, line) == (status, "", said)


@pytest.mark.parametrize(
    "line",
    ["gc-vc list", "gc-vm exec a-0 -- ls", "gc-vm console a-0", "gc-vm pull a-0 /no-such-file /"],
)
def test_no_copper_here(
    line: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COPPER_RUN_DIR", "/nowhere")
    expected = f"{line.split()[0]}: Copper does not run here (start it: copper up)\n"
    assert say(capfd, line) == (1, "", expected)


@pytest.mark.parametrize(
    ("variable", "value"), [("COPPER_ACCEL", "warp"), ("COPPER_STANDBYS", "x")]
)
def test_a_wrong_setting_is_named(
    variable: str, value: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    status, out, err = say(capfd, "gc-vc list")
    assert (status, out) == (2, "")
    assert err.startswith(f"gc-vc: {variable}='{value}' (expected ")


@click.command()
def fails() -> None:
    raise ZeroDivisionError("one\nby none")


def test_a_defect_gives_one_line_and_leaves_its_traceback(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPPER_STATE_DIR", str(tmp_path))
    (tmp_path / "log").mkdir()
    with pytest.raises(SystemExit) as ended:
        run(fails, "gc-vm", [])
    err = capfd.readouterr().err
    (log,) = (tmp_path / "log").iterdir()
    assert ended.value.code == 1
    line = f"gc-vm: unexpected ZeroDivisionError: one by none (the traceback is in {log})\n"
    assert err == line
    assert "Traceback" in log.read_text()
    monkeypatch.setenv("COPPER_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run(fails, "gc-vm", [])


def test_a_bare_command_shows_its_help_as_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = say(capfd, ["gc-vm"])
    assert (status, out) == (2, "")
    assert "exec" in err


def process(line: str, environment: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """A command line as a process of its own."""
    name, *argv = line.split(" ")
    code = f"from copper.cli.{name.replace('-', '_')} import main; main()"
    return [sys.executable, "-c", code, *argv], {**os.environ, **environment}


def test_a_reader_that_goes_away_and_a_full_disk(environment: dict[str, str]) -> None:
    argv, env = process("gc-vm list", environment)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(argv, env=env, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(argv, env=env, stdout=full, stderr=subprocess.PIPE)
    said = b"gc-vm: standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_closed_standard_files(environment: dict[str, str]) -> None:
    argv, env = process("gc-vm list", environment)
    done = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *argv], env=env)
    assert done.returncode == 0


def test_steps_say_their_times(capfd: pytest.CaptureFixture[str]) -> None:
    steps = Steps()
    with steps.step("one"):
        pass
    with steps.step("outer"):
        with steps.step("inner"):
            pass
    with pytest.raises(ValueError), steps.step("fails"):
        raise ValueError
    out, err = capfd.readouterr()
    lines = [re.sub(r" +", " ", line) for line in err.splitlines()]
    assert out == ""
    assert lines == [" one 0.0 s", " outer ", " inner 0.0 s", " outer 0.0 s", " fails "]
