"""The checks of `copper doctor`. None of them changes anything or needs a running Copper."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import fcntl
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from copper.client import Client
from copper.client.http import NotRunning
from copper.model.errors import CopperError
from copper.model.settings import MIB, Settings
from copper.net import sysctl
from copper.net.nft import Nft
from copper.net.private import open_lone_tap
from copper.vmm.capabilities import Qemu, accelerator_verdict, probe_qemu
from copper.vmm.paging import HUGE_PAGES, gives_huge_pages

SETUP = "scripts/demo installs and builds it"
LEAST_MEMORY_MIB = 256  # one guest of the smallest kind, and its QEMU
LEAST_DISK_MIB = 1024  # one image and what building it needs
# what building images runs, and the Debian packages that have it
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
    "cpio": "cpio",
    "depmod": "kmod",
    "xz": "xz-utils",
    "zstd": "zstd",
    "/bin/busybox": "busybox-static",
}
_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, 96 bytes): Linux 6.7's include/uapi/linux/fs.h
_USERFAULTFD = {"x86_64": 323}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the doctor's."""

    verdict: Literal["ok", "note", "lacking"]
    what: str
    detail: str
    advice: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """All findings, in the order in which one would mend them."""
    yield from _user()
    yield from _qemu(settings)
    yield _built("QEMU's hook", settings.native_dir / "libcopper-layers.so")
    yield _built("guest agent", settings.native_dir / "guest" / "gridcentric")
    yield _networks()
    yield _world()
    yield from _tools()
    yield from _memory(settings)
    yield from _folders(settings)
    yield from _kernel()
    yield from _images(settings)
    yield from _running(settings)


def _user() -> Iterator[Finding]:
    if os.geteuid() == 0:
        yield Finding("ok", "user", "root")
    else:
        yield Finding("lacking", "user", f"number {os.geteuid()}, not root", "try sudo")


def _qemu(settings: Settings) -> Iterator[Finding]:
    try:
        qemu = probe_qemu(settings)
    except CopperError as error:
        yield Finding("lacking", "QEMU", error.message, error.advice)
        return
    yield Finding("ok", "QEMU", f"{qemu.version}, machine {qemu.machine}")
    yield _accelerator(settings, qemu)


def _accelerator(settings: Settings, qemu: Qemu) -> Finding:
    verdict = accelerator_verdict(settings, qemu)
    if verdict.accelerator == "tcg":
        detail = f"VMs are emulated: {verdict.reason}"
        return Finding("note", "accelerator", detail, "slower, and all works")
    if verdict.proven:
        return Finding("ok", "accelerator", f"KVM: {verdict.reason}")
    advice = "the first image that is built here proves it or not"
    return Finding("note", "accelerator", f"KVM perhaps: {verdict.reason}", advice)


def _built(what: str, path: Path) -> Finding:
    if path.is_file():
        return Finding("ok", what, str(path))
    return Finding("lacking", what, f"there is no {path}", SETUP)


def _networks() -> Finding:
    if shutil.which("nft") is None:
        return Finding("lacking", "networks", "there is no nft", "apt-get install nftables")
    try:
        os.close(open_lone_tap())
    except OSError as error:
        detail = f"no tap in a network namespace: {error.strerror}"
        return Finding(
            "lacking", "networks", detail, "/dev/net/tun and the right to make namespaces"
        )
    return Finding("ok", "networks", "taps, network namespaces and nft")


def _world() -> Finding:
    try:
        Nft().close()
    except CopperError as error:
        return Finding("lacking", "public networks", error.message, error.advice)
    if sysctl.read("ipv4/ip_forward") != "1":
        detail = "this host does not forward: VMs and it reach each other, and nobody else"
        return Finding("note", "public networks", detail, "sysctl -w net.ipv4.ip_forward=1")
    six = sysctl.read("ipv6/conf/all/forwarding")
    kinds = "IPv4 and IPv6" if six == "1" else "IPv4, and not IPv6"
    mend = "sysctl -w net.ipv6.conf.all.forwarding=1" if six == "0" else ""
    return Finding("ok", "public networks", f"libnftables, and this host forwards {kinds}", mend)


def _tools() -> Iterator[Finding]:
    missing = {tool: package for tool, package in TOOLS.items() if shutil.which(tool) is None}
    if missing:
        advice = f"apt-get install {' '.join(sorted(missing.values()))}"
        yield Finding("lacking", "image building", f"there is no {', '.join(missing)}", advice)
    else:
        yield Finding("ok", "image building", "mmdebstrap and all that it needs")


def _memory(settings: Settings) -> Iterator[Finding]:
    kib = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M))
    total, free = int(kib["MemTotal"]) // 1024, int(kib["MemAvailable"]) // 1024
    detail = f"{free} of {total} MiB free, {settings.keep_free_mib} of it for the host"
    if free - settings.keep_free_mib < LEAST_MEMORY_MIB:
        advice = "end other programs, or set COPPER_KEEP_FREE_MIB lower"
        yield Finding("lacking", "memory", detail, advice)
    else:
        yield Finding("ok", "memory", detail)


def _folders(settings: Settings) -> Iterator[Finding]:
    for what, folder, variable in (
        ("state folder", settings.state_dir, "COPPER_STATE_DIR"),
        ("run folder", settings.run_dir, "COPPER_RUN_DIR"),
    ):
        there = _nearest(folder)
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            yield Finding("lacking", what, f"{there} cannot be written", f"or set {variable}")
        else:
            made = "" if there == folder else ", made at the first start"
            yield Finding("ok", what, f"{folder}{made}")
    free = shutil.disk_usage(_nearest(settings.state_dir)).free // MIB
    detail = f"{free} MiB free, {settings.keep_disk_mib} of it kept free"
    if free - settings.keep_disk_mib < LEAST_DISK_MIB:
        yield Finding("lacking", "disk", detail, f"make room at {settings.state_dir}")
    else:
        yield Finding("ok", "disk", detail)


def _nearest(path: Path) -> Path:
    """The path, or the first above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _kernel() -> Iterator[Finding]:
    kernel = f"Linux {platform.release()}"
    try:
        os.close(os.memfd_create("copper-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        yield Finding("ok", "sealed memory", kernel)
    except OSError as error:
        yield Finding("lacking", "sealed memory", f"{kernel}: memfd_create: {error.strerror}")
    for what, has, without in (
        ("PAGEMAP_SCAN", _has_pagemap_scan, "a freeze looks for changed pages more slowly"),
        ("userfaultfd", _has_userfaultfd, "a freeze cannot ask the kernel what changed"),
    ):
        if has():
            yield Finding("ok", what, kernel)
        else:
            yield Finding(
                "note", what, f"{kernel} does not have it: {without}", "Linux 6.7 or newer"
            )
    yield _huge_pages(kernel)


def _huge_pages(kernel: str) -> Finding:
    without = "VMs that write much stay in small ones"
    if not gives_huge_pages():
        advice = f"echo madvise > {HUGE_PAGES}"
        return Finding("note", "huge pages", f"this host gives none: {without}", advice)
    if not _has_pagemap_scan():
        advice = "Linux 6.7 or newer"
        return Finding("note", "huge pages", f"not with {kernel}: {without}", advice)
    return Finding("ok", "huge pages", "for VMs that write much")


def _has_pagemap_scan() -> bool:
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        try:
            fcntl.ioctl(pagemap, _PAGEMAP_SCAN, bytes(96))  # of size 0, which no kernel takes
        except OSError as error:
            return error.errno != errno.ENOTTY
    return True


def _has_userfaultfd() -> bool:
    number = _USERFAULTFD.get(platform.machine())
    if number is None:
        return False
    fd = ctypes.CDLL(None, use_errno=True).syscall(number, os.O_CLOEXEC)
    if fd < 0:
        return False
    os.close(fd)
    return True


def _images(settings: Settings) -> Iterator[Finding]:
    names = _quietly(lambda: sorted(path.parent.name for path in _manifests(settings)))
    if names:
        yield Finding("ok", "images", ", ".join(names))
    else:
        advice = "copper image build micro --recipe micro"
        yield Finding("note", "images", "there is none yet", advice)


def _manifests(settings: Settings) -> Iterator[Path]:
    return settings.images_dir.glob("[!.]*/manifest.json")


def _quietly(ask: Callable[[], list[str]]) -> list[str]:
    try:
        return ask()
    except OSError:
        return []  # not ours to read; the folder's own line says so


def _running(settings: Settings) -> Iterator[Finding]:
    try:
        health = Client(settings).health(timeout_s=5)
    except NotRunning:
        yield Finding("note", "Copper", "does not run", "copper up")
    except CopperError as error:
        yield Finding("lacking", "Copper", error.message, error.advice)
    else:
        yield Finding("ok", "Copper", f"version {health.version} runs, process {health.pid}")
