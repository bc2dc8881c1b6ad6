"""The private network of a virtual cluster: everybody reaches everybody, as themselves, and nothing of it is left."""

from __future__ import annotations

import os
import signal

from copper.net.addresses import ipv4_of, ipv6_of, mac_of
from tests.vm.machinery import Copper

MANY = 16


def reaches(copper: Copper, vm: str, address: str, within: int = 30) -> bool:
    return copper.client.run(vm, ["ping", "-c", "1", "-w", str(within), address]).status == 0


def test_after_a_fork_all_reach_all_by_name_and_by_address(copper: Copper, micro: str) -> None:
    vms = [copper.boot("a", micro), *copper.clone("a-0", MANY)]
    by_name = f"for n in {' '.join(vms)}; do ping -c 1 -w 60 $n >/dev/null || echo $n; done"
    assert copper.everywhere(vms, by_name) == [""] * len(vms)
    own = copper.everywhere(vms, "gc my-ip; cat /sys/class/net/eth0/address; hostname")
    assert [said.split() for said in own] == [
        [ipv4_of(vmid), mac_of(vmid), f"a-{vmid}"] for vmid in range(MANY + 1)
    ]
    shown = {vm.name: (vm.ip, vm.ip6) for vm in copper.client.vms("a")}
    assert shown == {f"a-{vmid}": (ipv4_of(vmid), ipv6_of(vmid)) for vmid in range(MANY + 1)}
    assert reaches(copper, "a-3", ipv6_of(7))
    ids = copper.everywhere(vms, "cat /etc/machine-id")
    assert len(set(ids)) == len(vms)
    for gone in vms[2:]:
        copper.client.end(gone)
    assert [line.split() for line in _told(copper, "a-0")] == [
        [ipv4_of(0), "a-0"],
        [ipv4_of(1), "a-1"],
    ]


def _told(copper: Copper, vm: str) -> list[str]:
    """What Copper keeps in a guest's /etc/hosts."""
    lines = copper.sh(vm, "cat /etc/hosts").splitlines()
    return lines[lines.index("# copper: begin") + 1 : lines.index("# copper: end")]


def test_virtual_clusters_with_the_same_addresses_do_not_meet(copper: Copper, micro: str) -> None:
    for cluster, clones in (("a", 1), ("b", 2)):
        copper.boot(cluster, micro)
        copper.clone(f"{cluster}-0", clones)
    assert reaches(copper, "a-1", ipv4_of(0)) and reaches(copper, "b-1", ipv4_of(0))
    assert reaches(copper, "b-1", ipv4_of(2))
    assert not reaches(copper, "a-1", ipv4_of(2), within=2)
    copper.client.kill("b")
    assert reaches(copper, "a-1", ipv4_of(0))


def test_a_vm_that_pretends_to_be_another_is_not_heard(copper: Copper, micro: str) -> None:
    copper.boot("a", micro)
    copper.clone("a-0", 2)
    other = ipv4_of(2)
    copper.sh("a-1", f"ip addr add {other}/32 dev eth0")
    pretend = ["ping", "-I", other, "-c", "1", "-w", "2", ipv4_of(0)]
    assert copper.client.run("a-1", pretend).status != 0
    copper.sh("a-1", f"ip addr del {other}/32 dev eth0; ip link set eth0 address {mac_of(2)}")
    assert not reaches(copper, "a-1", ipv4_of(0), within=2)
    copper.sh("a-1", f"ip link set eth0 address {mac_of(1)}")
    assert reaches(copper, "a-1", ipv4_of(0))
    assert reaches(copper, "a-2", ipv4_of(0))


def test_the_network_outlives_the_agent_and_goes_with_its_vms(copper: Copper, micro: str) -> None:
    copper.boot("a", micro)
    copper.clone("a-0", 2)
    copper.stop(signal.SIGKILL)
    copper.start()
    assert reaches(copper, "a-1", ipv4_of(2))
    os.kill(copper.client.status("a-2").pid, signal.SIGKILL)
    copper.stop(signal.SIGKILL)
    copper.start()
    assert copper.client.audit() == []
    assert reaches(copper, "a-1", "a-0")
    copper.client.suspend("a")
    assert copper.networks() == []
    copper.client.resume("a")
    assert reaches(copper, "a-1", "a-0") and reaches(copper, "a-0", "a-1")
    assert copper.client.audit() == []
    assert copper.networks() == ["a"]
    copper.client.kill("a")
    assert copper.networks() == []
