"""What is said of a machine's QEMU and KVM, and how an image's needs are held against it."""

from __future__ import annotations

from pathlib import Path

import pytest

from copper.image.thaw import check_needs
from copper.model.errors import CopperError, Foreign
from copper.model.machine import Needs
from copper.model.settings import Settings
from copper.vmm import capabilities

HERE = Needs(qemu="7.2.22", machine="pc-q35-7.2", accelerator="tcg", processor="max")


def emulator(folder: Path, version: str, machines: str = "q35  (alias of pc-q35-9.0)") -> Settings:
    """A program that speaks as a QEMU would."""
    path = folder / "qemu"
    path.write_text(
        f'#!/bin/sh\ncase "$1" in --version) echo "{version}";; *) echo "{machines}";; esac\n'
    )
    path.chmod(0o755)
    return Settings(state_dir=folder / "state", run_dir=folder / "run", qemu=str(path))


def test_a_qemu_is_asked_what_it_is(tmp_path: Path) -> None:
    found = capabilities.probe_qemu(emulator(tmp_path, "QEMU emulator version 9.0.1 (Debian)"))
    assert (found.version, found.machine) == ("9.0.1", "pc-q35-9.0")


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("QEMU emulator version 7.1.9", "too old"),
        ("QEMU emulator version 5.2.0 (Debian 1:5.2)", "too old"),
        ("cat (GNU coreutils) 9.1", "is not QEMU"),
        ("", "is not QEMU"),
    ],
)
def test_another_program_is_refused_in_one_line(tmp_path: Path, version: str, says: str) -> None:
    with pytest.raises(CopperError, match=says) as caught:
        capabilities.probe_qemu(emulator(tmp_path, version))
    assert "\n" not in str(caught.value)


def test_a_qemu_without_the_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CopperError, match="no machine q35"):
        capabilities.probe_qemu(emulator(tmp_path, "QEMU emulator version 9.0.1", "isapc"))


def test_a_missing_qemu_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(CopperError, match="qemu-system-x86"):
        capabilities.probe_qemu(Settings(qemu=str(tmp_path / "none")))


def test_what_was_decided_of_kvm_is_remembered_for_this_very_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = emulator(tmp_path, "QEMU emulator version 9.0.1")
    qemu = capabilities.probe_qemu(settings)
    monkeypatch.setattr(capabilities, "kvm_answers", lambda: "")
    assert not capabilities.accelerator_verdict(settings, qemu).proven
    capabilities.decide_accelerator(settings, qemu, "tcg", "guests hang")
    verdict = capabilities.accelerator_verdict(settings, qemu)
    assert (verdict.accelerator, verdict.reason, verdict.proven) == ("tcg", "guests hang", True)
    newer = capabilities.Qemu(qemu.path, "9.1.0", qemu.machine)
    assert not capabilities.accelerator_verdict(settings, newer).proven


def test_a_setting_overrules_what_was_decided(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, accel="kvm")
    qemu = capabilities.Qemu("/q", "9.0.1", "pc-q35-9.0")
    assert capabilities.accelerator_verdict(settings, qemu).accelerator == "kvm"


def test_no_device_means_emulation_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capabilities, "kvm_answers", lambda: "/dev/kvm: No such file or directory")
    qemu = capabilities.Qemu("/q", "9.0.1", "pc-q35-9.0")
    verdict = capabilities.accelerator_verdict(Settings(state_dir=tmp_path), qemu)
    assert (verdict.accelerator, verdict.proven) == ("tcg", True)
    assert "/dev/kvm" in verdict.reason


def test_an_image_is_taken_where_all_it_needs_is_here() -> None:
    check_needs("a", HERE, HERE)


@pytest.mark.parametrize(
    ("field", "value"),
    [("qemu", "8.0.0"), ("machine", "pc-q35-8.0"), ("accelerator", "kvm"), ("processor", "host X")],
)
def test_a_difference_is_refused_with_both_values(field: str, value: str) -> None:
    with pytest.raises(Foreign) as caught:
        check_needs("a", HERE.model_copy(update={field: value}), HERE)
    assert repr(value) in str(caught.value)
    assert repr(getattr(HERE, field)) in str(caught.value)
