"""The peers that are measured on request: what they are told, and what is said where they are not there."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from copper.bench import criu, kinds, virsh
from copper.bench.beside import versions
from copper.bench.fork import expected_s, main
from copper.bench.results import Results
from copper.bench.stats import Guest, Samples
from copper.bench.table import report
from copper.image.build.built import Built
from copper.model.errors import BadInput, NotFound
from copper.model.machine import Accelerator, Needs, Shape
from copper.vmm.capabilities import EMULATED, Qemu

GUEST = Guest("micro", 256)
QEMU = Qemu("/usr/bin/qemu-system-x86_64", "7.2.22", "pc-q35-7.2")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def a_domain(accelerator: Accelerator, folder: Path = Path("/images")) -> ElementTree.Element:
    built = Built(
        recipe="micro",
        digest="0" * 64,
        kernel=folder / "kernel",
        initrd=folder / "initrd",
        disk=folder / "disk.qcow2",
        disk_bytes=1 << 28,
        cmdline="console=ttyS0 quiet",
        memory_mib=256,
        packages={},
    )
    processor = EMULATED if accelerator == "tcg" else "host Some Processor @ 3 GHz"
    needs = Needs(
        qemu=QEMU.version, machine=QEMU.machine, accelerator=accelerator, processor=processor
    )
    shape = Shape(memory_mib=256, cpus=2, disk_bytes=1 << 28)
    text = virsh.domain(
        GUEST.image, QEMU, shape, needs, built, folder / "own.qcow2", Path("/tmp/cu-x/port")
    )
    return ElementTree.fromstring(text)


def test_libvirt_is_told_of_the_same_machine() -> None:
    found = a_domain("tcg")
    assert found.get("type") == "qemu"
    assert found.findtext("name") == "bench-micro-256"
    assert found.findtext("memory") == "256"
    assert found.findtext("vcpu") == "2"
    kind = found.find("os/type")
    assert kind is not None and kind.get("machine") == "pc-q35-7.2"
    assert found.findtext("os/kernel") == "/images/kernel"
    assert found.findtext("os/initrd") == "/images/initrd"
    assert found.findtext("os/cmdline") == "console=ttyS0 quiet"
    disk, channel = found.find("devices/disk/source"), found.find("devices/channel/source")
    assert disk is not None and disk.get("file") == "/images/own.qcow2"
    assert channel is not None and channel.get("path") == "/tmp/cu-x/port"


def test_an_emulated_processor_is_told_with_what_it_lacks() -> None:
    found = a_domain("tcg")
    processor = found.find("cpu")
    assert processor is not None and processor.get("mode") == "maximum"
    lacks = [(one.get("name"), one.get("policy")) for one in processor]
    assert lacks == [("erms", "disable"), ("fsrm", "disable")]
    assert found.findtext("features/tcg/tb-cache") == "32"


def test_with_kvm_the_processor_is_the_hosts() -> None:
    found = a_domain("kvm")
    processor = found.find("cpu")
    assert found.get("type") == "kvm"
    assert processor is not None and processor.get("mode") == "host-passthrough"
    assert list(processor) == []
    assert found.find("features/tcg") is None


def test_a_path_is_what_it_is_in_xml_too() -> None:
    folder = Path("/a & <b>/\"c'")
    found = a_domain("tcg", folder)
    assert found.findtext("os/kernel") == str(folder / "kernel")
    disk = found.find("devices/disk/source")
    assert disk is not None and disk.get("file") == str(folder / "own.qcow2")


def test_what_virsh_complains_of_is_one_line() -> None:
    said = (
        "virsh # restore '/x'\n"
        "2026-01-01 00:00:00.000+0000: 12: info : libvirt version: 9.0.0\n"
        "error: Failed to restore domain from /x\n"
        "error: operation failed: failed to read qemu header\n\n"
    )
    why = "Failed to restore domain from /x: operation failed: failed to read qemu header"
    assert virsh.complaint(said) == why
    assert virsh.complaint("Domain restored from /x\n") == ""


def test_what_criu_complains_of_is_one_line_without_where_in_its_source() -> None:
    said = (
        "Error (criu/util.c:642): exited, status=1\n"
        "(00.1) Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds\n"
        "Warn  (criu/net.c:1): something else\n"
        "Error (criu/crtools.c:260): Could not initialize kernel features detection.\n"
    )
    assert criu.complaint(said) == (
        "vdso: Unexpected rt vDSO area bounds; Could not initialize kernel features detection."
    )
    assert criu.complaint("Looks good.\n") == ""


def test_programs_that_are_not_installed_are_named_with_their_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFound, match=r"no virsh \(install .* libvirt-clients and libvirt-daemon"):
        virsh.check_programs()
    with pytest.raises(NotFound, match=r"no criu \(install the package criu"):
        asyncio.run(criu.Criu(1, tmp_path, tmp_path).prepare())
    assert versions(kinds.ON_REQUEST) == {}


def test_a_criu_that_does_not_know_this_kernel_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "criu"
    program.write_text("#!/bin/sh\necho 'Error (criu/vdso.c:1): unexpected vDSO' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(criu, "PROGRAM", str(program))
    with pytest.raises(NotFound, match=r"^there is no criu .* this kernel: unexpected vDSO$"):
        asyncio.run(criu.Criu(1, tmp_path, tmp_path).prepare())


def test_what_criu_keeps_outside_goes_unless_it_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criu, "KEPT", tmp_path / "kdat")
    with criu.kept_as_found():
        criu.KEPT.touch()
    assert not criu.KEPT.exists()
    criu.KEPT.touch()
    with criu.kept_as_found():
        pass
    assert criu.KEPT.exists()


def test_the_process_that_criu_stores_answers_whenever_it_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as answers:
        answers.bind(str(path))
        answers.settimeout(30)
        process = subprocess.Popen([sys.executable, "-I", "-c", criu.HOLDS, str(path), "1000"])
        try:
            for _ in range(3):
                assert answers.recv(64) == str(process.pid).encode()
                process.send_signal(signal.SIGUSR1)
        finally:
            process.kill()
            process.wait()


async def test_what_virsh_leaves_behind_is_reaped_at_once() -> None:
    script = "sh -c 'sleep 60 & echo $!'; read line"  # the sleep loses its parent
    reaper = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", virsh.REAPED, "sh", "-c", script),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert reaper.stdin is not None and reaper.stdout is not None
    orphan = int(await reaper.stdout.readline())
    try:
        status = Path(f"/proc/{orphan}/status")
        await until(lambda: f"PPid:\t{reaper.pid}\n" in status.read_text())
    finally:
        os.kill(orphan, signal.SIGKILL)
    await until(lambda: not status.exists())
    reaper.stdin.close()
    assert await reaper.wait() == 0


def test_a_peer_that_there_is_not_is_refused() -> None:
    with pytest.raises(BadInput, match=r"--peer xen \(expected loadvm-many, virsh, criu or all\)"):
        main(peers=["virsh", "xen"])


def test_peers_take_their_time() -> None:
    assert expected_s([GUEST], 3, len(kinds.ON_REQUEST)) > expected_s([GUEST], 3)


def results_of(samples: Samples) -> Results:
    machine: dict[str, object] = {
        "qemu": "7.2.22",
        "accelerator": "tcg",
        "virsh": "9.0.0",
        "processors": 2,
        "processor": "a processor",
        "memory_mib": 4096,
        "kernel": "6.1",
    }
    return Results(3, [256], ["micro"], machine, 1.0, [0.5, 0.4, 0.3], samples)


def test_peers_that_nobody_asked_for_are_in_no_table() -> None:
    samples = Samples()
    samples.add(GUEST, "idle", kinds.CLONE_ANSWER, 100)
    text = report(results_of(samples))
    assert kinds.COLD in text  # which every run has
    for names in kinds.ON_REQUEST.values():
        for name in names:
            assert name not in text
    assert "virsh restore /" not in text


def test_peers_that_were_asked_for_are_measured_or_missing() -> None:
    samples = Samples()
    samples.add(GUEST, "idle", kinds.CLONE_ANSWER, 100)
    samples.add(GUEST, "idle", kinds.CLONES_ANSWER, 1000)
    samples.add(GUEST, "-", kinds.LOADVM_MANY, 2500)
    samples.add(GUEST, "-", kinds.VIRSH_RESTORE, 450)
    samples.lacks(GUEST, "-", kinds.CRIU_RESTORE, "there is no criu")
    results = results_of(samples)
    lines = report(results).splitlines()

    def cells(begin: str) -> list[str]:
        (line,) = [one for one in lines if one.startswith(begin)]
        return line.removeprefix(begin).split()

    assert cells(kinds.LOADVM_MANY)[:3] == ["ms", "1", "2500"]
    assert cells(kinds.VIRSH_RESTORE)[:3] == ["ms", "1", "450"]
    assert cells(kinds.CRIU_RESTORE)[:3] == ["ms", "-", "-"]
    assert cells("8 times -loadvm / 8 clones, answers") == ["2.50"]
    assert cells("virsh restore / first answer") == ["4.50"]
    assert cells("criu restore / first answer") == ["-"]
    assert "  micro 256 MiB, peer: criu restore: 1 times: there is no criu" in lines
    assert any("QEMU 7.2.22 (tcg), virsh 9.0.0, " in line for line in lines)


def test_every_peer_says_what_it_measures() -> None:
    defined = json.loads(json.dumps(results_of(Samples()).as_json()))["definitions"]
    for names in kinds.ON_REQUEST.values():
        assert all(defined[name] for name in names)
    assert "one VM" in defined[kinds.VIRSH_RESTORE]
