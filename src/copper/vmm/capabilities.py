"""What this machine's QEMU can do, and whether KVM is to be believed here."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from copper.model.errors import CopperError
from copper.model.machine import Accelerator, Needs
from copper.model.settings import Settings

OLDEST_QEMU = (7, 2)
# QEMU emulates a string instruction step by step: a guest whose processor says that it is fast with bytes clears memory
# seven times slower than by words
EMULATED = "max,-erms,-fsrm"
_KVM_CREATE_VM = 0xAE01
_KVM_GET_API_VERSION = 0xAE00


@dataclasses.dataclass(frozen=True)
class Qemu:
    """The emulator that is installed."""

    path: str
    version: str  # such as 7.2.22
    machine: str  # what `q35` means to it, such as pc-q35-7.2


def probe_qemu(settings: Settings) -> Qemu:
    """Asks QEMU for its version and machines. Raises CopperError when it is missing or too old."""
    path = shutil.which(settings.qemu)
    if path is None:
        raise CopperError(
            f"there is no {settings.qemu}", advice="install the package qemu-system-x86"
        )
    said = _run([path, "--version"])
    match = re.search(r"version (\d+)\.(\d+)\.(\d+)", said)
    if not match:
        raise CopperError(f"{path} is not QEMU", advice=f"it said {said[:60]!r}")
    version = ".".join(match.groups())
    if (int(match[1]), int(match[2])) < OLDEST_QEMU:
        raise CopperError(
            f"QEMU {version} is too old", advice=f"{'.'.join(map(str, OLDEST_QEMU))} or newer"
        )
    alias = re.search(r"^q35\s.*\(alias of (\S+)\)", _run([path, "-machine", "help"]), re.M)
    if not alias:
        raise CopperError(f"QEMU {version} has no machine q35")
    return Qemu(path, version, alias[1])


def _run(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CopperError(f"{' '.join(argv)} did not run: {error}") from error
    return done.stdout


def kvm_answers() -> str:
    """Whether /dev/kvm makes a VM: "" if so, else why not. A yes proves nothing yet about guests."""
    try:
        fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    try:
        if fcntl.ioctl(fd, _KVM_GET_API_VERSION) != 12:
            return "/dev/kvm speaks another version"
        os.close(fcntl.ioctl(fd, _KVM_CREATE_VM, 0))
    except OSError as error:
        return f"/dev/kvm makes no VM: {error.strerror}"
    finally:
        os.close(fd)
    return ""


def host_processor() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return match[1].strip() if match else platform.machine()


def needs_of(qemu: Qemu, accelerator: Accelerator) -> Needs:
    """What a VM that is started here now will need of a host that thaws it."""
    # under KVM the guest has seen this very processor; an emulated one is the same everywhere
    processor = f"host {host_processor()}" if accelerator == "kvm" else EMULATED
    return Needs(
        qemu=qemu.version, machine=qemu.machine, accelerator=accelerator, processor=processor
    )


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Which accelerator this machine uses, why, and whether a guest has proven it."""

    accelerator: Accelerator
    reason: str
    proven: bool


def _verdict_key(qemu: Qemu) -> str:
    return f"{qemu.version} {platform.release()} {host_processor()}"


def accelerator_verdict(settings: Settings, qemu: Qemu) -> Verdict:
    """What was decided, or what to try first when nothing was: `proven` is False then."""
    if settings.accel != "auto":
        return Verdict(settings.accel, "COPPER_ACCEL says so", proven=True)
    why_not = kvm_answers()
    if why_not:
        return Verdict("tcg", why_not, proven=True)
    try:
        written = json.loads((settings.state_dir / "accelerator.json").read_text())
        if written["key"] == _verdict_key(qemu) and written["accelerator"] in ("kvm", "tcg"):
            return Verdict(written["accelerator"], str(written["reason"]), proven=True)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing was decided yet, or for another QEMU, kernel or processor
    return Verdict("kvm", "/dev/kvm answers; no guest has run with it yet", proven=False)


def decide_accelerator(
    settings: Settings, qemu: Qemu, accelerator: Accelerator, reason: str
) -> None:
    """Writes down what a real guest has shown, so that it is tried once and not at every start."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    fresh = settings.state_dir / "accelerator.json.new"
    decided = {"key": _verdict_key(qemu), "accelerator": accelerator, "reason": reason}
    fresh.write_text(json.dumps(decided))
    fresh.rename(settings.state_dir / "accelerator.json")
