"""Cloud images to import, made of a distribution's own parts, since none can be fetched here.

    debian    what Debian's genericcloud image is: its kernel and initial ramdisk, GRUB in the boot sector, systemd,
              cloud-init, netplan, OpenSSH
    micro     the recipe micro with GRUB, and thirty lines of shell in cloud-init's place: boots in seconds

Nothing is mounted: the file system is written into its partition, GRUB's core into the gap before it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import struct
import uuid
from collections.abc import Sequence
from pathlib import Path

from copper.image.build import initrd, load, rootfs
from copper.image.build.apt import Apt, Package
from copper.image.build.builder import EPOCH
from copper.image.build.modules import Modules
from copper.image.build.recipes import Recipe
from copper.image.build.run import run
from copper.image.build.sources import discover
from copper.image.build.workplace import locked, workplace

SECTOR = 512
PARTITION_AT = 2048  # sectors: where every partitioning program puts the first one
GRUB_MODULES = ["biosdisk", "part_msdos", "ext2", "normal", "configfile", "linux", "serial"]

DEBIAN = [
    "ca-certificates",
    "cloud-guest-utils",
    "cloud-init",
    "dbus",
    "e2fsprogs",
    "grub-pc-bin",
    "grub2-common",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "kmod",
    "linux-image-cloud-amd64",
    "netplan.io",
    "openssh-server",
    "procps",
    "sudo",
    "systemd",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
    "zstd",
]
CMDLINE = "console=tty0 console=ttyS0,115200"

# as in Debian's genericcloud images
NETPLAN = """\
network:
    version: 2
    ethernets:
        all-en:
            match: {name: en*}
            dhcp4: true
            dhcp6: true
        all-eth:
            match: {name: eth*}
            dhcp4: true
            dhcp6: true
"""
DEFAULT_GRUB = f"""\
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="{CMDLINE}"
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --speed=115200"
"""

# In cloud-init's place: finds the disk labelled cidata, runs its user-data once.
MICRO_NOCLOUD = """\
#!/bin/sh
# Runs the script that a disk labelled cidata brings, at this machine's first boot.
[ ! -e /var/lib/cloud-was-here ] || exit 0
[ -b /dev/vdb1 ] && disk=/dev/vdb1 || disk=/dev/vdb
[ -b $disk ] || exit 0
mkdir -p /mnt && mount -t vfat -o ro $disk /mnt || exit 0
grep '^instance-id: ' /mnt/meta-data >/var/lib/cloud-was-here || exit 0
cp /mnt/user-data /run/user-data && umount /mnt
chmod +x /run/user-data && exec /run/user-data
"""


def debian(cache: Path) -> Path:
    """A Debian 12 cloud image, as qcow2. The first one of its packages takes two minutes."""
    base = load("debian-12")
    recipe = dataclasses.replace(
        base, name="debian-cloud", packages=tuple(DEBIAN), modules=(), enable=(), mask=()
    )
    apt, packages = _resolve(recipe, cache)
    with locked(cache / "debian-cloud.lock"):
        target = _named(cache, "debian-cloud", packages)
        if target.exists():
            return target
        with locked(cache / "apt" / f"{recipe.suite}.lock"):
            apt.fetch(packages)
        with workplace(target.parent, "debian-cloud") as work:
            root = work / "root"
            root.mkdir()
            rootfs.install(root, recipe, apt, packages, work, EPOCH)
            identity = uuid.UUID(target.stem[-32:])
            _write(root / "etc/fstab", f"UUID={identity} / ext4 rw,discard,errors=remount-ro 0 1\n")
            _write(root / "etc/hostname", "localhost\n")
            _write(root / "etc/machine-id", "")
            _write(root / "etc/netplan/90-default.yaml", NETPLAN)
            _write(root / "etc/default/grub", DEFAULT_GRUB)
            for key in (root / "etc/ssh").glob("ssh_host_*"):
                key.unlink()
            (kernel,) = (root / "boot").glob("vmlinuz-*")
            version = kernel.name.removeprefix("vmlinuz-")
            _grub_config(root, f"vmlinuz-{version}", f"initrd.img-{version}", f"UUID={identity}")
            _bootable(root, root, work, target, identity, mib=2048)
    return target


def micro(cache: Path) -> Path:
    """A cloud image that boots in seconds, as qcow2."""
    recipe = load("micro").with_packages(["grub-pc-bin", "grub-common"])
    recipe = dataclasses.replace(
        recipe, modules=(*recipe.modules, "vfat", "nls_cp437", "nls_ascii")
    )
    apt, packages = _resolve(recipe, cache)
    kernel_package = apt.kernel(recipe.kernel)
    with locked(cache / "micro-cloud.lock"):
        target = _named(cache, "micro-cloud", [*packages, kernel_package], MICRO_NOCLOUD)
        if target.exists():
            return target
        with locked(cache / "apt" / f"{recipe.suite}.lock"):
            apt.fetch([*packages, kernel_package])
        with workplace(target.parent, "micro-cloud") as work:
            tools, root = work / "tools", work / "root"
            for folder, wanted in ((tools, packages), (root, apt.resolve(["busybox-static"]))):
                folder.mkdir()
                rootfs.unpack(folder, wanted)
            kernel, modules = rootfs.unpack_kernel(kernel_package, work / "kernel")
            (root / "boot").mkdir()
            shutil.copyfile(kernel, root / "boot/vmlinuz")
            busybox = root / "usr/bin/busybox"
            order = Modules(modules).load_order(recipe.modules)
            (root / "boot/initrd").write_bytes(initrd.pack(busybox, order))
            for name, path in recipe.files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, root / name)
                (root / name).chmod(0o755)
            for hook in recipe.hooks:
                run([hook, root])
            nocloud = root / "etc/init.d/nocloud"
            _write(nocloud, MICRO_NOCLOUD)
            nocloud.chmod(0o755)
            # its own init scripts, without the agent that our recipe starts
            lines = (root / "etc/inittab").read_text().splitlines(keepends=True)
            kept = [line for line in lines if "gridcentric" not in line]
            _write(root / "etc/inittab", "".join([*kept, "::once:/etc/init.d/nocloud\n"]))
            identity = uuid.UUID(target.stem[-32:])
            words = "rootflags=noatime,commit=30 rw quiet panic=-1 tsc=reliable random.trust_cpu=on"
            _grub_config(root, "vmlinuz", "initrd", f"/dev/vda1 {words}")
            _bootable(root, tools, work, target, identity, mib=96)
    return target


def _resolve(recipe: Recipe, cache: Path) -> tuple[Apt, list[Package]]:
    with locked(cache / "apt" / f"{recipe.suite}.lock"):
        apt = Apt(cache / "apt", recipe.suite, discover(recipe.suite))
        apt.update()
        return apt, apt.resolve(rootfs.wanted(recipe))


def _named(cache: Path, name: str, packages: Sequence[Package], *more: str) -> Path:
    """Where the image of these parts is, by what is in it."""
    parts = [name, *more, *sorted((p.name, p.version) for p in packages)]
    parts.append(hashlib.sha256(Path(__file__).read_bytes()).hexdigest())
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    return cache / "cloud" / f"{name}-{digest}.qcow2"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)


def _grub_config(root: Path, kernel: str, ramdisk: str, where: str) -> None:
    """What boots the image the first time: a distribution's own tools write theirs over it."""
    _write(
        root / "boot/grub/grub.cfg",
        "serial --speed=115200\nterminal_input serial\nterminal_output serial\n"
        "echo 'GRUB has found its configuration'\n"
        f"linux /boot/{kernel} root={where} {CMDLINE}\ninitrd /boot/{ramdisk}\nboot\n",
    )


def _bootable(
    root: Path, tools: Path, work: Path, target: Path, identity: uuid.UUID, *, mib: int
) -> None:
    """The root directory as a disk with one partition and GRUB, by the programs in `tools`."""
    grub = tools / "usr/lib/grub/i386-pc"
    modules = root / "boot/grub/i386-pc"
    modules.mkdir(parents=True, exist_ok=True)
    for path in (*grub.glob("*.mod"), *grub.glob("*.lst")):
        shutil.copyfile(path, modules / path.name)
    prefix = ["-p", "(hd0,msdos1)/boot/grub", "-o", "/tmp/core.img"]
    run(["chroot", tools, "grub-mkimage", "-O", "i386-pc", *prefix, *GRUB_MODULES])
    core = (tools / "tmp/core.img").read_bytes()
    (tools / "tmp/core.img").unlink()
    assert len(core) <= (PARTITION_AT - 1) * SECTOR
    boot = bytearray((grub / "boot.img").read_bytes())
    assert len(boot) == SECTOR
    sectors = (mib << 20) // SECTOR
    # one entry: bootable, Linux, by its sectors alone
    entry = struct.pack(
        "<B3sB3sII",
        0x80,
        b"\xfe\xff\xff",
        0x83,
        b"\xfe\xff\xff",
        PARTITION_AT,
        sectors - PARTITION_AT,
    )
    boot[440:446] = identity.bytes[:4] + bytes(2)
    boot[446:510] = entry.ljust(64, b"\0")
    boot[510:512] = b"\x55\xaa"
    raw = work / "disk.raw"
    with raw.open("xb") as disk:
        # boot.img looks for the core in sector 1, and the core's first sector for the rest behind it
        disk.write(boot + core)
        disk.truncate(mib << 20)
    offset = PARTITION_AT * SECTOR
    options = f"offset={offset},lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0"
    layout = ["-t", "ext4", "-T", "default", "-b", "4096", "-U", str(identity), "-L", "rootfs"]
    blocks = f"{((mib << 20) - offset) >> 10}k"
    run(["mke2fs", "-q", *layout, "-E", options, "-d", root, raw, blocks])
    fresh = work / "disk.qcow2"
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, fresh])
    for old in target.parent.glob(f"{target.stem[:-32]}*.qcow2"):
        old.unlink()
    fresh.rename(target)


if __name__ == "__main__":
    import sys

    kind, where = sys.argv[1:]
    print({"debian": debian, "micro": micro}[kind](Path(where).absolute()))
    sys.exit(0)
