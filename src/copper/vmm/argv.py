"""QEMU's command line. Two processes with the same shape get the same machine: device state asks for it."""

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


@dataclasses.dataclass(frozen=True)
class Boot:
    """A first start from a kernel; without one, a process waits for device state."""

    kernel: Path
    initrd: Path
    cmdline: str
    disk: Path


@dataclasses.dataclass(frozen=True)
class Inherited:
    """Descriptors that QEMU is started with: listening sockets, and the empty file that names its memory."""

    qmp: int
    port: int
    console: int
    ram: int


def command_line(
    qemu: str, name: str, shape: Shape, needs: Needs, inherited: Inherited, boot: Boot | None
) -> list[str]:
    """The arguments of one QEMU process. `boot`: start a kernel; None: wait for a state."""
    accel = "kvm" if needs.accelerator == "kvm" else f"tcg,tb-size={TCG_CACHE_MIB}"
    processor = needs.processor.split(" ")[0]
    ram = f"memory-backend-file,id=ram,size={shape.memory_mib}M,mem-path=/proc/self/fd/{inherited.ram},share=off"
    argv = [
        *(qemu, "-nodefaults", "-no-user-config", "-display", "none", "-S", "-no-reboot"),
        *("-name", name),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
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
        argv += ["-kernel", str(boot.kernel), "-initrd", str(boot.initrd), "-append", boot.cmdline]
    under = "placeholder" if boot is None else "disk"
    argv += ["-blockdev", json.dumps({"driver": "raw", "node-name": "root", "file": under})]
    argv += ["-device", "virtio-blk-pci,drive=root,write-cache=on"]
    return argv
