"""A distribution's cloud image becomes an image of ours: by its own boot loader, and its own cloud-init."""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
from pathlib import Path

import pytest

from tests.vm import cloud_image
from tests.vm.machinery import COMMANDS, Copper, images_folder

SOAK = bool(os.environ.get("COPPER_SOAK"))  # scripts/soak: Debian's own takes five minutes and more
CACHE = images_folder() / "cache"


@pytest.fixture(scope="session")
def small() -> Path:
    """A cloud image that boots in seconds."""
    return cloud_image.micro(CACHE)


def names(copper: Copper) -> dict[str, str]:
    """The images, and what each is made of."""
    listed = json.loads(copper.run("copper", "image", "list", "--format", "json").stdout)
    return {image["name"]: image["recipe"] for image in listed}


def own_names(copper: Copper, vms: list[str]) -> list[str]:
    return [copper.exec(vm, "hostname").strip() for vm in vms]


def test_a_cloud_image_is_imported_booted_and_forked(
    copper: Copper, small: Path, tmp_path: Path
) -> None:
    path = tmp_path / "small cloud.qcow2"
    path.write_bytes(small.read_bytes())
    path.chmod(0o444)
    before = (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
    what = ["copper", "image", "import", "small", str(path), "--memory", "192", "--disk", "128"]
    copper.run(*what)
    assert (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) == before
    assert names(copper)["small"] == "import:small cloud.qcow2"

    made = (copper.settings.images_dir / "small/manifest.json").read_bytes()
    copper.run(*what)  # the very same is left as it is
    assert (copper.settings.images_dir / "small/manifest.json").read_bytes() == made
    other = copper.run(*what[:-2], check=False)  # another size is another image
    assert other.returncode == 5
    assert b"--replace" in other.stderr

    copper.run("gc-vc", "create", "x", "--image", "small")
    copper.run("gc-vc", "boot", "x")
    master = "x-0"
    copper.sh(master, "echo written >/root/before")
    clones = copper.clone(master, 3)
    assert own_names(copper, [master, *clones]) == [master, *clones]
    for clone in clones:
        assert copper.sh(clone, "cat /root/before; ls /etc/gridcentric") == (
            "written\npost-clone-on-clone.d\npost-clone-on-master.d\npost-clone.d\npre-clone.d\n"
        )
    resolver = "nameserver 10.0.0.254\nsearch clusters\n"
    assert {copper.sh(vm, "cat /etc/resolv.conf") for vm in (master, *clones)} == {resolver}
    copper.sh(clones[0], "until nslookup x-3.clusters >/dev/null; do sleep 0.1; done")
    assert copper.sh(clones[0], "cat /sys/block/vda/size").strip() == str((128 << 20) // 512)
    second = copper.clone(clones[0], 1)
    assert own_names(copper, second) == second


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_import_leaves_nothing(
    copper: Copper, small: Path, how: signal.Signals
) -> None:
    before = names(copper)
    process = subprocess.Popen(
        [str(COMMANDS / "copper"), "image", "import", "half", str(small), "--memory", "192"],
        env={**os.environ, **copper.environment},
        stderr=subprocess.PIPE,
        # whoever runs the tests in the background has Ctrl-C ignored by all that they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    said = b""
    while b"cloud-init" not in said:  # the machine is being started, or runs
        assert select.select([process.stderr], [], [], 600)[0], said
        piece = os.read(process.stderr.fileno(), 4096)
        assert piece, said
        said += piece
    process.send_signal(how)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGINT
    assert names(copper) == before
    assert copper.qemus() == []
    assert list(copper.settings.images_dir.glob(".half*")) == []


def test_a_disk_that_does_not_boot_is_told_at_once(copper: Copper, tmp_path: Path) -> None:
    path = tmp_path / "dead.raw"
    # `int 0x18`: a boot sector's own way to say that it cannot go on
    path.write_bytes((b"\xcd\x18".ljust(510, b"\x90") + b"\x55\xaa").ljust(1 << 20, b"\0"))
    argv = ["copper", "image", "import", "dead", str(path), "--format", "raw", "--memory", "64"]
    done = copper.run(*argv, check=False)
    assert done.returncode == 1
    assert b"its disk does not boot; its last lines: " in done.stderr
    assert b"No bootable device" in done.stderr
    assert "dead" not in names(copper)


def test_a_file_that_leads_elsewhere_is_refused_in_one_line(copper: Copper, tmp_path: Path) -> None:
    path = tmp_path / "overlay.qcow2"
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", str(path)]
    subprocess.run([*argv, "1M"], check=True)
    done = copper.run("copper", "image", "import", "thief", str(path), check=False)
    assert done.returncode == 4
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith(f"copper: {path}: it is an overlay over another file: /etc/passwd")
    assert "thief" not in names(copper)


@pytest.mark.skipif(not SOAK, reason="five minutes and more: scripts/soak has it")
def test_debians_cloud_image_is_imported_booted_and_forked(copper: Copper) -> None:
    path = cloud_image.debian(CACHE)
    what = ["image", "import", "debian-cloud", str(path), "--memory", "768", "--disk", "3072"]
    subprocess.run(
        [str(COMMANDS / "copper"), *what], env={**os.environ, **copper.environment}, check=True
    )
    copper.run("gc-vc", "create", "x", "--image", "debian-cloud")
    copper.run("gc-vc", "boot", "x")
    clones = copper.clone("x-0", 3)
    vms = ["x-0", *clones]
    assert own_names(copper, vms) == vms
    keys = [copper.sh(vm, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub") for vm in vms]
    assert len(set(keys)) == len(vms)
    machine_ids = [copper.sh(vm, "cat /etc/machine-id") for vm in vms]
    assert len(set(machine_ids)) == len(vms)
    assert (
        copper.sh(clones[0], "ping -c 3 -W 10 10.0.0.1 >/dev/null && echo reached") == "reached\n"
    )
    # its resolver's link has gone, and with it the program that would have answered at 127.0.0.53
    assert (
        copper.sh(clones[0], "cat /etc/resolv.conf") == "nameserver 10.0.0.254\nsearch clusters\n"
    )
    copper.sh(clones[0], "until getent -s hosts:dns hosts x-3.clusters; do sleep 0.1; done")
    assert copper.sh(clones[0], "getent hosts x-2.clusters").split()[1] == "x-2.clusters"
    assert "net.ifnames=0" in copper.sh(clones[0], "cat /proc/cmdline")
    assert copper.sh(clones[0], "ls /sys/class/net").split() == ["eth0", "lo"]
    assert copper.sh(clones[0], "cat /run/cloud-init/status.json 2>/dev/null; true") == ""
    assert copper.sh(clones[0], "systemctl --failed --no-legend") == ""
    assert int(copper.sh(clones[0], "df --output=size -BM / | tail -1 | tr -dc 0-9")) > 2600
