"""The host agent: one machine's VMs, and what it says of itself."""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path

from copper.host.controller_link import ControllerLink
from copper.host.vms import Vms
from copper.image.freeze import free_for_layers
from copper.image.store import ImageStore
from copper.model.api import HostFacts, ImageInfo
from copper.model.errors import CopperError
from copper.model.machine import Needs
from copper.model.settings import Settings
from copper.vmm.capabilities import Verdict, accelerator_verdict, needs_of, probe_qemu


class HostAgent:
    """Does what the controller decides, on one machine."""

    def __init__(self, settings: Settings, controller: ControllerLink) -> None:
        """Asks QEMU and the machine what they can do. Raises CopperError when QEMU is missing or too old."""
        self.settings = settings
        self.name = platform.node() or "localhost"
        self.qemu = probe_qemu(settings)
        for folder in (settings.state_dir, settings.disks_dir, settings.vms_dir, settings.run_dir):
            folder.mkdir(parents=True, exist_ok=True)
        settings.run_dir.chmod(0o700)
        self.store = ImageStore(settings)
        self.vms = Vms(settings, self._here, controller)

    @property
    def verdict(self) -> Verdict:
        """Which accelerator is used here: read anew, since the first image that is built decides it."""
        return accelerator_verdict(self.settings, self.qemu)

    def _here(self) -> Needs:
        return needs_of(self.qemu, self.verdict.accelerator)

    def facts(self) -> HostFacts:
        with Path("/proc/meminfo").open() as meminfo:
            total = int(re.findall(r"\d+", meminfo.readline())[0]) << 10
        disk = shutil.disk_usage(self.settings.state_dir)
        return HostFacts(
            name=self.name,
            cpus=os.cpu_count() or 1,
            memory_bytes=total,
            free_bytes=max(0, free_for_layers(self.settings)),
            disk_bytes=disk.total,
            disk_free_bytes=disk.free,
            accelerator=self.verdict.accelerator,
            accelerator_reason=self.verdict.reason,
            qemu=self.qemu.version,
            machine=self.qemu.machine,
            vms=len(self.vms.all()),
            standbys=len(self.vms.standbys),
        )

    def images(self) -> list[ImageInfo]:
        """Stored images; one that is damaged is listed as such, so that it can be deleted."""
        found = []
        for name in self.store.names():
            users = sorted({vm.identity.cluster for vm in self.vms.all() if vm.template == name})
            try:
                manifest = self.store.manifest(name)
            except CopperError:
                found.append(
                    ImageInfo(
                        name=name,
                        recipe="(damaged)",
                        created=0,
                        memory_mib=0,
                        cpus=0,
                        disk_bytes=0,
                        stored_bytes=self.store.stored_bytes(name),
                        accelerator="",
                        users=users,
                    )
                )
                continue
            found.append(
                ImageInfo(
                    name=name,
                    recipe=manifest.recipe,
                    created=manifest.created,
                    memory_mib=manifest.shape.memory_mib,
                    cpus=manifest.shape.cpus,
                    disk_bytes=manifest.shape.disk_bytes,
                    stored_bytes=self.store.stored_bytes(name),
                    accelerator=manifest.needs.accelerator,
                    users=users,
                )
            )
        return found
