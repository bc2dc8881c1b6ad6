"""ssh to VMs and between them: nobody is asked for a password, and every host key is known."""

from __future__ import annotations

import shutil

import pytest

from tests.vm.machinery import Copper

CLONES = 2
BATCH = "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes"

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs ssh")


@pytest.mark.timeout(900)
def test_gc_vm_ssh_is_a_login_to_the_vm(debian: str, copper: Copper) -> None:
    copper.boot("a", debian)
    done = copper.run(
        "gc-vm",
        *("ssh", "a-0", "--", "cat; whoami; hostname; echo no >&2; exit 7"),
        stdin=b"hello\n" * 50_000,
        check=False,
    )
    assert (done.returncode, done.stderr) == (7, b"no\n")
    assert done.stdout == b"hello\n" * 50_000 + b"root\na-0\n"
    said = copper.run("gc-vm", "connect", "a-0", "22", stdin=b"nobody\r\n").stdout
    assert said.startswith(b"SSH-2.0-OpenSSH")
    closed = copper.run("gc-vm", "connect", "a-0", "23", check=False)
    assert closed.returncode == 1
    assert closed.stderr == b"gc-vm: nothing listens at port 23 of a-0\n"


@pytest.mark.timeout(900)
def test_after_a_fork_all_log_in_to_all_and_nobody_is_asked(debian: str, copper: Copper) -> None:
    master = copper.boot("a", debian)
    vms = [master, *copper.clone(master, CLONES)]
    keys = {vm.name: vm.ssh_host_key for vm in copper.client.vms("a")}
    assert len(set(keys.values())) == len(vms)
    own = copper.everywhere(vms, "cat /etc/ssh/ssh_host_*_key.pub")
    assert own == [f"{keys[vm]}\n" for vm in vms]
    to_all = f"for vm in {' '.join(vms)}; do {BATCH} $vm hostname; done"
    assert copper.sh(master, to_all).split() == vms
    back = f"{BATCH} {master} hostname; {BATCH} 10.0.0.1 hostname"
    assert copper.everywhere(vms[1:], back) == [f"{master}\n" * 2] * CLONES
    assert copper.sh(vms[1], f"{BATCH} {vms[2]} hostname") == f"{vms[2]}\n"
    # what was not in the way is as it was
    assert copper.sh(master, "ls -A /root/.ssh; cat /root/.ssh/known_hosts || true") == ""
    secret = copper.sh(master, "stat -c '%a %U' /etc/gridcentric/ssh/id_ed25519; gc known-hosts")
    assert secret.split("\n", 1)[0] == "600 root"
    copper.client.kill_vm(vms[1])
    listed = copper.sh(master, "gc known-hosts").splitlines()
    assert [line.split(",")[0] for line in listed] == [master, *vms[2:]]
    again = copper.run("gc-vm", "ssh", vms[2], "--", "hostname")
    assert (again.stdout, again.stderr) == (f"{vms[2]}\n".encode(), b"")


@pytest.mark.timeout(900)
def test_another_virtual_cluster_has_another_key(debian: str, copper: Copper) -> None:
    masters = [copper.boot(name, debian) for name in ("a", "b")]
    mine, others = (copper.sh(vm, "cat /etc/gridcentric/ssh/*") for vm in masters)
    assert mine != others
    for file in ("identity", "generation"):
        assert "PRIVATE" not in copper.sh("a-0", f"cat /run/gridcentric/{file}")


def test_an_image_that_does_not_say_so_takes_no_logins(copper: Copper, micro: str) -> None:
    copper.boot("a", micro)
    done = copper.run("gc-vm", "ssh", "a-0", check=False)
    assert done.returncode == 3
    assert done.stderr == (
        b"gc-vm: virtual cluster a has no SSH key: image micro takes none"
        b" (gc-vm exec needs neither ssh nor a key)\n"
    )
    assert copper.sh("a-0", "ls /etc/gridcentric; gc known-hosts").splitlines() == [
        "post-clone-on-clone.d",
        "post-clone-on-master.d",
        "post-clone.d",
        "pre-clone.d",
    ]
