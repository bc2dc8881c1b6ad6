"""A template's first start has the devices of the VMs that are thawed from it, in their places."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from copper.model.machine import Needs, Shape
from copper.vmm.argv import Boot, Inherited, command_line

SHAPE = Shape(memory_mib=256, cpus=1, disk_bytes=1 << 30)
NEEDS = Needs(qemu="7.2.22", machine="pc-q35-7.2", accelerator="tcg", processor="max")
DISK = Path("/images/x/disk.qcow2")
KERNEL = Boot(DISK, Path("/k"), Path("/i"), "quiet")
LOADER = Boot(DISK)
SEEDED = Boot(DISK, seed=Path("/images/x/seed"))


def argv(boot: Boot | None) -> list[str]:
    return command_line("qemu", "copper-x", SHAPE, NEEDS, Inherited(3, 4, 5, 6, 7), boot)


def devices(words: list[str]) -> list[str]:
    return [value for name, value in itertools.pairwise(words) if name == "-device"]


@pytest.mark.parametrize("boot", [KERNEL, LOADER])
def test_it_has_the_devices_of_a_vm(boot: Boot) -> None:
    assert devices(argv(boot)) == devices(argv(None))


def test_a_seed_comes_behind_them() -> None:
    # so that the second start finds them where they were
    assert devices(argv(SEEDED))[:-1] == devices(argv(None))
    assert "cidata" in " ".join(argv(SEEDED))
    assert "cidata" not in " ".join(argv(LOADER))


def test_only_a_kernel_of_ours_is_named() -> None:
    assert {"-kernel", "-initrd", "-append"} <= set(argv(KERNEL))
    for boot in (LOADER, SEEDED, None):
        assert not {"-kernel", "-initrd", "-append"} & set(argv(boot))


def test_a_guest_that_is_not_ours_yet_cannot_reach_anything() -> None:
    assert "user,id=net,restrict=on" in argv(SEEDED)
    for boot in (KERNEL, LOADER, None):
        assert not [word for word in argv(boot) if word.startswith("user,")]
