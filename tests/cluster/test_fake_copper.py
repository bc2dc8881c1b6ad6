"""`copper up --fake` as a process, and the commands that people give it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs a command line against a fake Copper of three hosts; at the end nothing of it runs."""
    with tempfile.TemporaryDirectory(prefix="cu-") as folder:
        environment = {
            **os.environ,
            "COPPER_RUN_DIR": f"{folder}/run",
            "COPPER_STATE_DIR": f"{folder}/state",
            "COPPER_NATIVE_DIR": f"{folder}/nothing-is-built",
            "COPPER_QEMU": "no-such-qemu",
            "COPPER_FAKE_HOSTS": "3",
        }

        def given(*argv: str, stdin: str = "", **more: str) -> tuple[int, str, str]:
            module = argv[0].replace("-", "_")
            code = f"from copper.cli.{module} import main; main()"
            done = subprocess.run(
                [sys.executable, "-c", code, *argv[1:]],
                env={**environment, **more},
                input=stdin,
                capture_output=True,
                text=True,
                timeout=120,
            )
            return done.returncode, done.stdout, done.stderr

        try:
            yield given
        finally:
            assert given("copper", "down")[0] == 0
            left = [path for path in Path(folder, "run", "fake").rglob("*") if path.is_file()]
            assert not left


def out_of(done: tuple[int, str, str]) -> str:
    status, out, err = done
    assert (status, err) == (0, ""), err
    return out


def test_commands_work_as_with_real_machines(run: Run) -> None:
    said = out_of(run("copper", "up", "--fake"))
    assert "fake machines" in said
    assert out_of(run("copper", "up", "--fake")).startswith("Copper runs already: ")
    hosts = json.loads(out_of(run("gc-host", "list", "--format", "json")))
    assert [host["name"] for host in hosts] == ["fake-0", "fake-1", "fake-2"]

    out_of(run("gc-vc", "create", "a", "--image", "micro"))
    out_of(run("gc-vc", "boot", "a"))
    assert out_of(run("gc-vm", "exec", "a-0", "--", "gc", "clone", "4")) == "0\n"
    names = out_of(run("gc-vm", "list", "a", "--format", "name")).split()
    assert names == [f"a-{vmid}" for vmid in range(5)]
    assert "fake-0" in out_of(run("gc-vm", "show", "a-3"))
    assert out_of(run("gc-vm", "exec", "a-3", "--", "gc", "vmid")) == "3\n"
    assert run("gc-vm", "exec", "a-3", "--", "gc", "ismaster")[0] == 1
    assert out_of(run("gc-vm", "exec", "a-2", "--", "cat", stdin="kept\n")) == "kept\n"
    ticket = out_of(run("gc-vm", "exec", "a-0", "--", "gc", "rt", "1", "1", "1", "0")).split()[1]
    assert out_of(run("gc-vm", "exec", "a-0", "--", "gc", "clone", ticket)) == "0\n"

    # it echoes what comes to port 7, and nothing else is listened on
    assert out_of(run("gc-vm", "connect", "a-3", "7", stdin="kept\n" * 9999)) == "kept\n" * 9999
    refused = "gc-vm: nothing listens at port 22 of a-3\n"
    assert run("gc-vm", "connect", "a-3", "22") == (1, "", refused)
    status, out, err = run("gc-vm", "ssh", "a-3", "--", "true")
    assert (status, out, err.count("\n")) == (3, "", 1)
    assert err.startswith("gc-vm: virtual cluster a has no SSH key: image micro takes none")

    # a fake guest refuses what it has not, each in one line
    for argv in (
        ("gc-vm", "exec", "a-1", "--", "ls"),
        ("gc-vm", "console", "a-1"),
        ("gc-vm", "push", "a-1", "/etc/hostname", "/tmp"),
        ("gc-vm", "log", "a-1"),
    ):
        status, out, err = run(*argv)
        assert (status != 0, out, err.count("\n")) == (True, "", 1)
        assert "fake machine" in err

    out_of(run("gc-vc", "kill", "a"))
    assert out_of(run("gc-vm", "list", "--format", "name")) == ""
    out_of(run("gc-vc", "delete", "a"))


SSH = """\
#!/bin/sh
for word; do
    case $word in
    IdentityFile=*) key=$(echo "${word#*=}" | tr -d '"') ;;
    UserKnownHostsFile=*) known=$(echo "${word#*=}" | tr -d '"') ;;
    ProxyCommand=*) echo "${word#*=}" ;;
    esac
done
stat -c %a "$key" "$known" "$(dirname "$key")"
head -1 "$key"
cut -d ' ' -f 1,2 "$known"
echo "$key" >&2
while [ "$1" != -- ]; do shift; done
echo "$@"
cat
exit 7
"""


def test_ssh_is_run_with_keys_that_are_gone_afterwards(run: Run, tmp_path: Path) -> None:
    out_of(run("copper", "up", "--fake"))
    out_of(run("gc-vc", "create", "a", "--image", "debian-12"))
    out_of(run("gc-vc", "boot", "a"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "100% ours").mkdir()
    path = f"{tmp_path}/bin"
    here = {"XDG_RUNTIME_DIR": f"{tmp_path}/100% ours"}
    status, out, err = run("gc-vm", "ssh", "a-0", PATH=path, **here)
    assert (status, out) == (1, "")
    assert err == ("gc-vm: there is no ssh here (install openssh-client; gc-vm exec needs none)\n")
    (tmp_path / "bin/ssh").write_text(SSH)
    (tmp_path / "bin/ssh").chmod(0o755)
    path += f":{os.environ['PATH']}"
    words = ["--", "echo", "$HOME", "-v"]
    status, out, err = run("gc-vm", "ssh", "a-0", *words, stdin="hello\n", PATH=path, **here)
    proxy, *rest = out.splitlines()
    assert (status, proxy.endswith("connect a-0 22")) == (7, True)
    assert rest == [
        *("600", "600", "700", "-----BEGIN OPENSSH PRIVATE KEY-----", "a-0 ssh-ed25519"),
        *("-- a-0 echo $HOME -v", "hello"),
    ]
    assert err.startswith(f"{tmp_path}/100% ours/gc-vm-")
    assert list((tmp_path / "100% ours").iterdir()) == []
    listed = out_of(run("gc-vm", "exec", "a-0", "--", "gc", "known-hosts"))
    assert listed.startswith("a-0,a-0.clusters,10.0.0.1,") and listed.count("\n") == 1
    for said in (("gc-vc", "show", "a"), ("gc-vm", "show", "a-0"), ("gc-vm", "list")):
        assert "PRIVATE" not in out_of(run(*said, "--format", "json"))


def test_a_user_from_elsewhere_reaches_own_vms_only(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        at = f"127.0.0.1:{free.getsockname()[1]}"
    out_of(run("copper", "up", "--fake", COPPER_LISTEN=at))
    away = {}
    for user in ("ann", "eve"):
        out_of(run("copper", "user", "create", user))
        token = out_of(run("copper", "token", "create", user)).strip()
        away[user] = {"COPPER_URL": f"http://{at}", "COPPER_TOKEN": token}
    out_of(run("gc-vc", "create", "a", "--image", "debian-12", **away["ann"]))
    out_of(run("gc-vc", "boot", "a", **away["ann"]))
    echo = ("gc-vm", "connect", "a-0", "7")
    assert out_of(run(*echo, stdin="hello\n", **away["ann"])) == "hello\n"
    for argv in (echo, ("gc-vm", "ssh", "a-0")):
        status, out, err = run(*argv, **away["eve"])
        assert (status, out) == (3, "")
        assert err.startswith("gc-vm: there is no VM 'a-0'")


def test_a_node_that_is_killed_finds_its_fake_machines_again(run: Run) -> None:
    said = out_of(run("copper", "up", "--fake"))
    out_of(run("gc-vc", "create", "a", "--image", "micro"))
    out_of(run("gc-vc", "boot", "a"))
    out_of(run("gc-vm", "exec", "a-0", "--", "gc", "clone", "8"))
    for verb in ("pause", "unpause", "suspend", "resume"):
        out_of(run("gc-vc", verb, "a"))
    before = out_of(run("gc-vm", "list", "--format", "json"))
    os.kill(int(said.split("process ")[1].split(",")[0]), signal.SIGKILL)
    out_of(run("copper", "up", "--fake"))
    assert out_of(run("gc-vm", "list", "--format", "json")) == before
    assert out_of(run("gc-vm", "exec", "a-8", "--", "hostname")) == "a-8\n"
