"""Thaw: an image → a VM that shares the image's pages until it writes them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from copper.image.disks import check_room, new_overlay
from copper.image.layers import Layer, close_all
from copper.image.machine import Image, Machine, node_of
from copper.model.errors import Foreign
from copper.model.machine import Needs
from copper.model.settings import Settings
from copper.vmm.process import QemuProcess


def check_needs(image: str, wanted: Needs, here: Needs) -> None:
    """Refuses an image that another QEMU, machine or processor made. Raises Foreign with both values."""
    for field, what in (
        ("accelerator", "accelerator"),
        ("qemu", "QEMU"),
        ("machine", "machine"),
        ("processor", "processor"),
    ):
        needed, found = getattr(wanted, field), getattr(here, field)
        if needed != found:
            raise Foreign(
                f"image {image} needs {what} {needed!r}, here is {found!r}",
                advice="build the image again on this machine",
            )


async def thaw(image: Image, process: QemuProcess, settings: Settings, tap: int) -> Machine:
    """Makes a waiting QEMU the VM of this image, on this tap, its processors stopped: `run` starts them.

    Connect its port in between. Raises Damaged, NoRoom or CopperError; the process is then good for nothing, its caller
    ends it, and no disk is left.
    """
    image.check_state()
    if (image.shape, image.needs) != (process.shape, process.needs):
        raise Foreign(f"image {image.id} was thawed into a process of another shape")
    check_room(settings.disks_dir, settings.keep_disk_mib, 1 << 20, "a VM")
    disk = new_overlay(settings.disks_dir, image.disks[-1], image.shape.disk_bytes)
    layers = [layer.share() for layer in image.layers]
    machine = Machine(process, layers, (*image.disks, disk))
    try:
        # memory and disk are two threads of QEMU: neither waits for the other
        async with asyncio.TaskGroup() as both:
            both.create_task(_put_memory(process, layers, tap))
            both.create_task(_put_disk(process, machine.disks))
        state = os.memfd_create("copper-state", os.MFD_CLOEXEC)
        try:
            os.write(state, image.state)
            os.lseek(state, 0, os.SEEK_SET)
            await process.monitor.load_devices(state)
        finally:
            os.close(state)
    except BaseException as error:
        close_all(layers)
        disk.unlink(missing_ok=True)
        if isinstance(error, BaseExceptionGroup):
            raise error.exceptions[0] from error
        raise
    return machine


async def thaw_copy(image: Image, process: QemuProcess, settings: Settings) -> Machine:
    """As `thaw`, for a copy of the process that the image was frozen of: it lacks only a disk of its own."""
    check_room(settings.disks_dir, settings.keep_disk_mib, 1 << 20, "a VM")
    disk = new_overlay(settings.disks_dir, image.disks[-1], image.shape.disk_bytes)
    try:
        await process.monitor.change_disk(
            node_of(disk), disk, node_of(image.disks[-1]), image.unused
        )
    except BaseException:
        disk.unlink(missing_ok=True)
        raise
    return Machine(process, [layer.share() for layer in image.layers], (*image.disks, disk))


async def _put_memory(process: QemuProcess, layers: Sequence[Layer], tap: int) -> None:
    await process.layers.take_tap(tap)
    await process.layers.lay([layer.fd for layer in layers], reset=True)


async def _put_disk(process: QemuProcess, chain: Sequence[Path]) -> None:
    await process.monitor.add_overlay([(node_of(disk), disk) for disk in chain])
    await process.monitor.put_under_root(node_of(chain[-1]))


async def run(machine: Machine) -> None:
    """Starts the processors."""
    await machine.process.monitor.cont()
