"""Sixteen clones, each a machine of its own: what hazards.md says of identity, in real guests."""

from __future__ import annotations

import pytest

from tests.vm.machinery import Copper

MANY = 16


IDS = {
    "machine-id": "cat /etc/machine-id",
    "boot-id": "cat /proc/sys/kernel/random/boot_id",
    "host name": "hostname; cat /etc/hostname",
    "MAC": "cat /sys/class/net/eth0/address",
    "addresses": "ip -o addr show dev eth0 | grep -o 'inet6* [^ ]*'",
    "my-ip": "gc my-ip",
    "random numbers": "dd if=/dev/urandom bs=16 count=1 2>/dev/null | sha256sum",
    "UUID": "cat /sys/class/dmi/id/product_uuid 2>/dev/null || cat /etc/machine-id",
}


def test_every_clone_is_another_machine(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    vms = [master, *copper.clone(master, MANY)]
    all_of_them = "echo;".join(f"{{ {script}; }} | tr '\\n' ' ';" for script in IDS.values())
    told = [text.splitlines() for text in copper.everywhere(vms, all_of_them)]
    for number, what in enumerate(IDS):
        assert len({lines[number] for lines in told}) == len(vms), what
    assert {vm: copper.sh(vm, "hostname").strip() for vm in vms} == {vm: vm for vm in vms}


def test_every_clone_reaches_all_others_by_name(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    vms = [master, *copper.clone(master, MANY)]
    names = " ".join(vms)
    script = f"for name in {names}; do ping -c 1 -W 20 $name >/dev/null || echo $name; done"
    assert copper.everywhere(vms, script) == [""] * len(vms)


def test_old_connections_end_in_clones_and_listeners_go_on(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    (peer,) = copper.clone(master, 1)
    copper.sh(
        peer,
        "setsid sh -c 'tail -f /dev/null | nc -l -p 7000' >/dev/null 2>&1 & "
        "until netstat -tln | grep -q :7000; do usleep 100000; done",
    )
    copper.sh(
        master,
        "setsid sh -c 'tail -f /dev/null | nc a-1 7000; echo over >/tmp/over' >/dev/null 2>&1 & "
        "setsid nc -ll -p 7001 -e cat >/dev/null 2>&1 & "
        "until netstat -tn | grep -q ':7000 .*ESTABLISHED'; do usleep 100000; done",
    )
    clones = copper.clone(master, MANY)
    assert copper.everywhere(clones, "netstat -tn | grep -c :7000 || true") == ["0\n"] * MANY
    assert copper.sh(master, "netstat -tn | grep -c ':7000 .*ESTABLISHED'") == "1\n"
    assert copper.sh(peer, "netstat -tn | grep -c ':7000 .*ESTABLISHED'") == "1\n"
    for clone in clones:
        assert copper.sh(peer, f"echo hello | nc -w 20 {clone} 7001") == "hello\n"


def test_the_generation_grows_in_clones(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    read = "cat /run/gridcentric/generation; gc generation"
    (first,) = copper.clone(master, 1)
    (second,) = copper.clone(first, 1)
    assert [copper.sh(vm, read) for vm in (master, first, second)] == ["0\n0\n", "1\n1\n", "2\n2\n"]


@pytest.mark.timeout(1800)
def test_every_clone_has_an_ssh_host_key_of_its_own(debian: str, copper: Copper) -> None:
    master = copper.boot("a", debian)
    vms = [master, *copper.clone(master, MANY)]
    keys = copper.everywhere(vms, "cat /etc/ssh/ssh_host_*_key.pub")
    assert len(set(keys)) == len(vms)
    assert all(key.startswith("ssh-ed25519 ") and key.count("\n") == 1 for key in keys)
    peer = "python3 -c 'import socket; print(socket.create_connection((\"a-1\", 22)).recv(8))'"
    assert copper.sh(master, peer) == "b'SSH-2.0-'\n"
