"""Public addresses of real guests: the host reaches each by its own, and nothing of it is left when they end.

The addresses are of a documentation block and lead to this Copper's own device: nothing leaves the host.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest

from copper.host.cgroups import instance_of
from copper.model.networks import Attachment
from copper.net.translation import uplink_of
from tests.vm.machinery import Copper, a_copper

POOL, POOL6 = "198.51.100.10-198.51.100.19", "2001:db8::10-2001:db8::19"
ANSWERED_S = 60
HOSTS = {32: "10.0.0.254", 128: "fd00:c::fffe:254"}  # by the bits of an address
SERVE = "setsid nc -ll -p 80 -e hostname </dev/null >/dev/null 2>&1 &"


@pytest.fixture
def public(accel: str, micro: str) -> Iterator[Copper]:
    """A Copper whose host has a public network."""
    with a_copper(accel, COPPER_NETWORKS="public") as made:
        made.client.create_network("public", [POOL])
        yield made


@pytest.fixture
def routed(accel: str, micro: str) -> Iterator[Copper]:
    """A Copper whose VMs have their public addresses themselves, of both kinds."""
    with a_copper(accel, COPPER_NETWORKS="public") as made:
        made.client.create_network("public", [POOL, POOL6], mode="routed")
        yield made


def boot(
    copper: Copper, cluster: str, image: str, *, egress: str, master_only: bool = False
) -> str:
    networks = [Attachment(name="public", master_only=master_only)]
    copper.client.create(cluster, image, networks=networks, egress=egress)
    return copper.client.boot(cluster).name


def says(address: str, port: int = 80) -> str:
    """Which VM answers there; empty: none."""
    try:
        with socket.create_connection((address, port), ANSWERED_S) as sock:
            sock.settimeout(ANSWERED_S)
            return sock.makefile().read().strip()
    except OSError:
        return ""


def addresses(copper: Copper, cluster: str) -> dict[str, list[str]]:
    return {vm.name: list(vm.public) for vm in copper.client.vms(cluster)}


def host_address(copper: Copper) -> str:
    """The host's own on this Copper's device."""
    device = f"cp-{instance_of(copper.settings.run_dir)[:6]}"
    return uplink_of(socket.if_nametoindex(device))[0]


def test_each_vm_is_reached_by_its_own_address_until_it_ends(public: Copper, micro: str) -> None:
    for cluster in ("a", "b"):
        master = boot(public, cluster, micro, egress="none")
        public.sh(master, SERVE)
    public.clone("a-0", 2)
    there = addresses(public, "a") | addresses(public, "b")
    assert sorted(there) == ["a-0", "a-1", "a-2", "b-0"]
    for vm, (address,) in there.items():
        assert says(address) == vm
    (of_b,) = there["b-0"]
    assert public.client.run("a-1", ["nc", "-w", "5", of_b, "80"]).status != 0
    assert public.client.audit() == []
    public.stop(signal.SIGKILL)
    public.start()
    for vm, (address,) in there.items():
        assert says(address) == vm
    public.client.end("a-1")
    assert says(there["a-1"][0]) == ""
    assert says(there["a-2"][0]) == "a-2"
    while public.client.vm("a-1").state != "dead":  # the controller hears of it from its host
        pass
    assert public.client.audit() == []
    for cluster in ("a", "b"):
        public.client.kill(cluster)
    assert public.ways_out() == []


def test_the_way_out_is_as_wide_as_was_said(public: Copper, micro: str) -> None:
    boot(public, "a", micro, egress="open", master_only=True)
    boot(public, "b", micro, egress="none")
    public.sh("b-0", SERVE)
    public.clone("a-0", 1)
    there = addresses(public, "a") | addresses(public, "b")
    assert there["a-1"] == []
    host, seen = host_address(public), []
    with socket.create_server((host, 0)) as listener:
        listener.settimeout(ANSWERED_S)
        port = str(listener.getsockname()[1])
        for vm in ("a-0", "a-1"):
            public.sh(vm, f"setsid nc -w 20 {host} {port} </dev/null >/dev/null 2>&1 &")
            sock, (address, _) = listener.accept()
            seen.append(address)
            sock.close()
        refused = public.client.run("b-0", ["nc", "-w", "20", host, port])
    assert refused.status != 0 and b"nc:" in refused.stderr
    assert seen[0] == there["a-0"][0]
    assert seen[1] not in [one for of in there.values() for one in of]
    assert public.exec("a-1", "nc", "-w", "20", there["b-0"][0], "80") == "b-0\n"


def test_a_port_of_the_host_leads_to_a_vm(copper: Copper, micro: str) -> None:
    copper.sh(copper.boot("a", micro), SERVE)
    copper.clone("a-0", 1)
    copper.client.create_forward("a", 1, 18080, 80)
    host = host_address(copper)
    assert says(host, 18080) == "a-1"
    copper.client.delete_forward("a", "tcp", "18080")
    assert copper.ways_out() == []
    copper.client.create_forward("a", 0, 18080, 80)
    assert says(host_address(copper), 18080) == "a-0"
    assert copper.client.audit() == []


def test_vms_have_routed_addresses_themselves_of_both_kinds(routed: Copper, micro: str) -> None:
    boot(routed, "a", micro, egress="none")
    routed.sh("a-0", SERVE)
    routed.clone("a-0", 2)
    boot(routed, "b", micro, egress="198.51.100.0/24,2001:db8::/64")
    there = addresses(routed, "a") | addresses(routed, "b")
    assert [len(both) for both in there.values()] == [2, 2, 2, 2]
    assert len({one for both in there.values() for one in both}) == 8
    for vm, both in there.items():
        has = routed.exec(vm, "ip", "addr", "show", "dev", "eth0")
        assert [address for address in both if f" {address}/" in has] == both
        others = {one for mine in there.values() for one in mine} - {*both}
        assert not [address for address in others if f" {address}/" in has]
    for vm in ("a-0", "a-1", "a-2"):
        assert [says(address) for address in there[vm]] == [vm, vm]
    four, six = there["a-2"]
    assert routed.exec("b-0", "nc", "-w", "20", four, "80") == "a-2\n"
    assert routed.exec("b-0", "nc", "-w", "20", six, "80") == "a-2\n"
    assert routed.exec("a-1", "nc", "-w", "20", four, "80") == "a-2\n"  # in one virtual cluster
    assert routed.client.run("a-1", ["nc", "-w", "5", there["b-0"][0], "80"]).status != 0

    # one that takes another's address is not heard as it, and the other is
    for address, bits in zip(there["a-2"], (32, 128), strict=True):
        routed.exec("a-1", "ip", "addr", "add", f"{address}/{bits}", "dev", "eth0")
        routed.sh("a-1", f"ping -c 2 -w 5 -I {address} {HOSTS[bits]} >/dev/null 2>&1; true")
        assert says(address) == "a-2"

    routed.client.set_egress("b", "none")
    assert routed.client.run("b-0", ["nc", "-w", "5", four, "80"]).status != 0
    assert routed.client.audit() == []
    routed.stop(signal.SIGKILL)
    routed.start()
    for vm in ("a-0", "a-2"):
        assert [says(address) for address in there[vm]] == [vm, vm]
    routed.client.end("a-0")
    assert [says(address) for address in there["a-0"]] == ["", ""]
    routed.client.suspend("a")
    routed.client.resume("a")
    assert [says(address) for address in there["a-2"]] == ["a-2", "a-2"]
    assert routed.client.audit() == []
