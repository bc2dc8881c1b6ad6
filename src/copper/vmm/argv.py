"""QEMU's command line. Two processes with the same shape get the same machine: device state asks for it.

Other devices, or another order of them, are another format of images and suspended clusters (image.machine.FORMAT).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from copper.model.machine import Needs, Shape
from copper.vmm.qmp import disk_options

# a small q35: what is not there is neither saved, nor loaded, nor given memory
MACHINE_OPTIONS = (
    "hpet=off,vmport=off,smbus=off,sata=off,usb=off,graphics=off,mem-merge=off,"
    "dump-guest-core=off,suppress-vmdesc=on"
)
TCG_CACHE_MIB = 32
CARD_MAC = "52:54:00:00:00:00"  # VM 0's; a state brings its VM's, and a guest takes its own


@dataclasses.dataclass(frozen=True)
class Boot:
    """A first start: from a kernel, or by the disk's own boot loader where there is none.

    `seed` is a folder that the guest sees as one more disk, read-only, with a FAT file system labelled cidata.
    """

    disk: Path
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    seed: Path | None = None


@dataclasses.dataclass(frozen=True)
class Inherited:
    """Descriptors that QEMU is started with: listening sockets, the empty file that names its memory, and a tap."""

    qmp: int
    port: int
    console: int
    ram: int
    tap: int


def command_line(
    qemu: str, name: str, shape: Shape, needs: Needs, inherited: Inherited, boot: Boot | None
) -> list[str]:
    """The arguments of one QEMU process. `boot`: a first start; None: wait for a state."""
    accel = "kvm" if needs.accelerator == "kvm" else f"tcg,tb-size={TCG_CACHE_MIB}"
    processor = needs.processor.split(" ")[0]
    ram = f"memory-backend-file,id=ram,size={shape.memory_mib}M,mem-path=/proc/self/fd/{inherited.ram},share=off"
    # what is emulated is forked by copying QEMU's process; native/layers.c forbids programs then
    spawn = "deny" if needs.accelerator == "kvm" else "allow"
    argv = [
        *(qemu, "-nodefaults", "-no-user-config", "-display", "none", "-S", "-no-reboot"),
        *("-name", name),
        *(
            "-sandbox",
            f"on,obsolete=deny,elevateprivileges=deny,spawn={spawn},resourcecontrol=deny",
        ),
        *("-machine", f"{needs.machine},memory-backend=ram,{MACHINE_OPTIONS}"),
        *("-accel", accel),
        *("-cpu", processor),
        *("-smp", str(shape.cpus)),
        *("-m", str(shape.memory_mib)),
        *("-object", ram),
        *("-rtc", "base=utc,clock=host"),
        *("-chardev", f"socket,id=qmp,fd={inherited.qmp},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=console,fd={inherited.console},server=on,wait=off"),
        *("-serial", "chardev:console"),
        *("-chardev", f"socket,id=port,fd={inherited.port},server=on,wait=off"),
        *("-device", "virtio-serial-pci,id=serial,max_ports=4"),
        *("-device", "virtserialport,bus=serial.0,chardev=port,name=org.copper.agent"),
    ]
    if boot is None:
        placeholder = {
            "driver": "null-co",
            "node-name": "placeholder",
            "size": shape.disk_bytes,
            "read-zeroes": True,
        }
        argv += ["-blockdev", json.dumps(placeholder), "-incoming", "defer"]
        # the state has neither memory nor the section that describes it
        argv += ["-global", "migration.send-configuration=off"]
    else:
        argv += ["-blockdev", json.dumps(disk_options("disk", boot.disk))]
        if boot.kernel is not None:
            argv += ["-kernel", str(boot.kernel), "-initrd", str(boot.initrd)]
            argv += ["-append", boot.cmdline]
    under = "placeholder" if boot is None else "disk"
    argv += ["-blockdev", json.dumps({"driver": "raw", "node-name": "root", "file": under})]
    argv += ["-device", "virtio-blk-pci,drive=root,write-cache=on"]
    seed = boot.seed if boot is not None else None
    # a guest that is not ours yet waits for an address: QEMU's own DHCP gives one, and leads nowhere
    wire = f"tap,id=net,fd={inherited.tap}" if seed is None else "user,id=net,restrict=on"
    argv += ["-netdev", wire]
    # no firmware of its own, and no word of its own on the wire when a state was loaded
    argv += ["-device", f"virtio-net-pci,netdev=net,mac={CARD_MAC},romfile=,guest_announce=off"]
    if seed is not None:
        files = {"driver": "vvfat", "dir": str(seed), "label": "cidata", "read-only": True}
        argv += ["-blockdev", json.dumps({**files, "node-name": "seed"})]
        argv += ["-device", "virtio-blk-pci,drive=seed"]
    return argv
