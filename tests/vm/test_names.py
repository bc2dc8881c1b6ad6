"""Names inside virtual clusters, asked for by real guests: after forks and ends, and after everything was killed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator

import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from copper.net.addresses import ipv4_of, ipv6_of
from tests.cluster.names import ended, servers_in
from tests.vm.machinery import Copper, a_copper

MANY = 16
WITHIN_S = 120
RESOLVER = "nameserver 10.0.0.254\nsearch clusters\n"
# asks until the answer is right: how soon that is, copper bench dns measures
UNTIL = """
wanted=$(printf '%s\\n' WANTED | sort)
ends=$(($(date +%s) + WITHIN))
until [ "$(ASK 2>/dev/null | sort)" = "$wanted" ]; do
  if [ "$(date +%s)" -gt $ends ]; then ASK; exit 1; fi
  usleep 50000 2>/dev/null || sleep 0.05
done
"""
# without its first lines, which say who was asked
MICRO = "nslookup -type=KIND NAME 10.0.0.254 | sed 1,2d | sed -n 's/^Address: *//p; s/.*name = //p'"
DEBIAN = "getent -s hosts:dns ahostsvFAMILY NAME | cut -d' ' -f1 | uniq"


def asked(how: str, name: str, wanted: list[str], kind: str = "a") -> str:
    """A script that ends when the name has these answers."""
    family = {"a": "4", "aaaa": "6"}.get(kind, "")
    ask = how.replace("NAME", name).replace("KIND", kind).replace("FAMILY", family)
    script = UNTIL.replace("WANTED", " ".join(wanted)).replace("WITHIN", str(WITHIN_S))
    return script.replace("ASK", ask)


def addresses(size: int) -> list[str]:
    return [ipv4_of(vmid) for vmid in range(size)]


@pytest.fixture
def copper(accel: str, micro: str) -> Iterator[Copper]:
    """A Copper that knows the image `micro`, at a port of its own."""
    with a_copper(accel, COPPER_DNS="127.0.0.1:0") as made:
        yield made


def kill_server(copper: Copper) -> None:
    (server,) = servers_in(copper.settings.run_dir)
    os.kill(server, signal.SIGKILL)
    ended(server)


def test_all_clones_of_a_fork_find_all_others(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    # by the very program whose machine is forked: each of them asks as soon as clone returns
    names = asked(MICRO, "a.clusters", addresses(MANY + 1))
    script = f"gc clone {MANY} >/tmp/vmid; ({names}) >/tmp/said 2>&1; echo $? >/tmp/status"
    copper.sh(master, script)
    vms = copper.vms("a")
    assert len(vms) == MANY + 1
    waited = "until [ -s /tmp/status ]; do usleep 100000; done; cat /tmp/said /tmp/status"
    assert copper.everywhere(vms, waited) == ["0\n"] * len(vms)
    assert set(copper.everywhere(vms, "cat /etc/resolv.conf")) == {RESOLVER}
    each = "; ".join(
        f"nslookup -type=a a-{vmid}.clusters >/tmp/out && grep -q ': {ipv4_of(vmid)}$' /tmp/out || echo {vmid}"
        for vmid in range(MANY + 1)
    )
    assert copper.everywhere(vms, each) == [""] * len(vms)
    assert copper.sh("a-3", asked(MICRO, "a-7", [ipv6_of(7)], "aaaa")) == ""
    assert copper.sh("a-3", asked(MICRO, "8.0.0.10.in-addr.arpa", ["a-7.clusters"], "ptr")) == ""
    # a program that knows nothing of DNS, by the domain that the guest was told
    assert copper.sh("a-5", "ping -c 1 -W 60 a-9.clusters >/dev/null; echo $?") == "0\n"


def test_a_name_goes_with_its_vm(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    copper.clone(master, 3)
    copper.sh(master, asked(MICRO, "a", addresses(4)))
    copper.client.end("a-2")
    copper.sh(master, asked(MICRO, "a", [ipv4_of(vmid) for vmid in (0, 1, 3)]))
    assert "NXDOMAIN" in copper.sh(master, "nslookup a-2.clusters 2>&1; true")
    os.kill(copper.client.status("a-3").pid, signal.SIGKILL)
    copper.sh(master, asked(MICRO, "a", addresses(2)))
    copper.client.suspend("a")
    copper.client.resume("a")
    copper.sh("a-1", asked(MICRO, "a", addresses(2)))


def test_virtual_clusters_with_the_same_addresses_see_their_own_names(
    copper: Copper, micro: str
) -> None:
    for cluster, clones in (("a", 1), ("b", 2)):
        copper.boot(cluster, micro)
        copper.clone(f"{cluster}-0", clones)
    for cluster, size in (("a", 2), ("b", 3)):
        copper.sh(f"{cluster}-1", asked(MICRO, cluster, addresses(size)))
        own = [f"{cluster}-0.clusters"]
        copper.sh(f"{cluster}-1", asked(MICRO, "1.0.0.10.in-addr.arpa", own, "ptr"))
    assert "NXDOMAIN" in copper.sh("a-1", "nslookup 3.0.0.10.in-addr.arpa 2>&1; true")
    for one, other in (("a-1", "b-2"), ("b-1", "a-1"), ("b-1", "a")):
        assert "Address: 10.0.0" not in copper.sh(one, f"nslookup {other}.clusters 2>&1; true")
    assert copper.client.audit() == []


def test_names_are_right_after_whatever_was_killed(copper: Copper, micro: str) -> None:
    master = copper.boot("a", micro)
    copper.clone(master, 2)
    copper.sh("a-1", asked(MICRO, "a", addresses(3)))
    kill_server(copper)
    copper.sh("a-1", asked(MICRO, "a", addresses(3)))
    copper.clone("a-1", 1)
    copper.sh("a-3", asked(MICRO, "a", addresses(4)))
    (server,) = servers_in(copper.settings.run_dir)
    copper.stop(signal.SIGKILL)
    ended(server)
    copper.start()
    copper.sh("a-3", asked(MICRO, "a", addresses(4)))
    kill_server(copper)  # of a node that found these networks
    copper.client.end("a-0")
    copper.sh("a-3", asked(MICRO, "a", addresses(4)[1:]))
    assert copper.client.audit() == []


@contextlib.contextmanager
def another_server(address: str) -> Iterator[tuple[int, list[str]]]:
    """Answers every question with one address: its port, and what it was asked."""
    seen: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        end, told = os.pipe()

        def serve() -> None:
            while end not in select.select([sock.fileno(), end], [], [])[0]:
                asked, who = sock.recvfrom(2000)
                query = dns.message.from_wire(asked)
                answer = dns.message.make_response(query)
                question = query.question[0]
                seen.append(question.name.to_text())
                if question.rdtype == dns.rdatatype.A:
                    answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", address))
                sock.sendto(answer.to_wire(), who)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield sock.getsockname()[1], seen
        finally:
            os.close(told)
            thread.join()
            os.close(end)


def test_names_of_the_world_are_for_those_who_may_go_there(accel: str, micro: str) -> None:
    with another_server("192.0.2.80") as (port, seen):
        forward = f"127.0.0.1:{port}"
        with a_copper(accel, COPPER_DNS="127.0.0.1:0", COPPER_DNS_FORWARD=forward) as copper:
            for cluster, egress in (("out", "open"), ("kept", "none")):
                copper.run("gc-vc", "create", cluster, "--image", micro, "--egress", egress)
                copper.run("gc-vc", "boot", cluster)
                copper.sh(f"{cluster}-0", asked(MICRO, cluster, addresses(1)))
            copper.sh("out-0", asked(MICRO, "www.example.org", ["192.0.2.80"]))
            assert "REFUSED" in copper.sh("kept-0", "nslookup secret.example.org 2>&1; true")
            copper.run("gc-vc", "egress", "kept", "127.0.0.0/8")
            copper.sh("kept-0", asked(MICRO, "late.example.org", ["192.0.2.80"]))
    assert "www.example.org." in seen
    assert not [name for name in seen if "secret" in name or "clusters" in name]


@pytest.mark.timeout(900)
def test_debians_own_programs_find_names(copper: Copper, debian: str) -> None:
    master = copper.boot("d", debian)
    vms = [master, *copper.clone(master, 3)]
    assert set(copper.everywhere(vms, "cat /etc/resolv.conf")) == {RESOLVER}
    assert copper.everywhere(vms, asked(DEBIAN, "d", addresses(4))) == [""] * 4
    assert copper.everywhere(vms, asked(DEBIAN, "d-3.clusters", [ipv6_of(3)], "aaaa")) == [""] * 4
    python = "import socket; print(socket.gethostbyname('d-2.clusters'))"
    assert copper.sh("d-1", f'python3 -c "{python}"') == f"{ipv4_of(2)}\n"
    reverse = f"getent -s hosts:dns hosts {ipv4_of(1)}"
    assert copper.sh("d-3", reverse).split() == [ipv4_of(1), "d-1.clusters"]
    copper.client.end("d-2")
    copper.sh("d-1", asked(DEBIAN, "d", [ipv4_of(vmid) for vmid in (0, 1, 3)]))
    assert copper.client.run("d-1", ["getent", "-s", "hosts:dns", "hosts", "d-2"]).status == 2
