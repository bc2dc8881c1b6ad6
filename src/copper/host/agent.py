"""The host agent: one machine's VMs, and what it says of itself."""

from __future__ import annotations

import platform

from copper.host.controller_link import ControllerLink
from copper.host.hypervisor import Hypervisor
from copper.host.memory_guard import MemoryGuard
from copper.host.qemu import QemuHypervisor
from copper.host.records import FileRecords, Records
from copper.host.use import vm_use
from copper.host.vms import Vms
from copper.host.whole_clusters import WholeClusters
from copper.model.api import HostFacts, HostReport, ImageInfo
from copper.model.audit import Inventory
from copper.model.settings import Settings
from copper.vmm.capabilities import Verdict


class HostAgent:
    """Does what the controller decides, on one machine."""

    def __init__(
        self,
        settings: Settings,
        controller: ControllerLink,
        *,
        hypervisor: Hypervisor | None = None,
        records: Records | None = None,
        name: str = "",
    ) -> None:
        """Over this machine's QEMU, unless told otherwise. Raises CopperError when it is missing or too old."""
        self.settings = settings
        self.name = name or platform.node() or "localhost"
        self.hypervisor = hypervisor or QemuHypervisor(settings)
        self.vms = Vms(
            settings, self.hypervisor, records or FileRecords(settings.vms_dir), controller
        )
        self.whole = WholeClusters(self.vms)
        self._guard = MemoryGuard(self.vms)

    async def adopt(self) -> None:
        """Begins: finds the VMs of an earlier host agent."""
        await self.vms.adopt()
        self._guard.start()

    async def leave(self) -> None:
        """Ends; its VMs run on."""
        await self._guard.close()
        await self.whole.close()
        await self.vms.leave()

    @property
    def verdict(self) -> Verdict:
        """Which accelerator is used here: read anew, since the first image that is built decides it."""
        return self.hypervisor.verdict

    def facts(self) -> HostFacts:
        """What this host has now."""
        room, verdict = self.hypervisor.room(), self.verdict
        return HostFacts(
            name=self.name,
            cpus=room.cpus,
            memory_bytes=room.memory_bytes,
            free_bytes=room.free_bytes,
            disk_bytes=room.disk_bytes,
            disk_free_bytes=room.disk_free_bytes,
            accelerator=verdict.accelerator,
            accelerator_reason=verdict.reason,
            qemu=self.hypervisor.version,
            machine=self.hypervisor.machine,
            vms=len(self.vms.all()),
            standbys=self.hypervisor.standbys,
            cpu_ratio=self.settings.cpu_ratio,
            tags=list(self.settings.tags),
            networks=list(self.settings.networks),
            storage=list(self.settings.storage),
        )

    def report(self) -> HostReport:
        """What this host and its VMs have and use now: 0.2 ms for each of them."""
        return HostReport(
            facts=self.facts(),
            vms=[vm_use(vm.identity, vm.machine) for vm in self.vms.all()],
            ended=self.vms.lately_ended.all(),
        )

    async def inventory(self) -> Inventory:
        """All that is here of Copper's, and the VMs that this agent looks after."""
        found = await self.hypervisor.found()
        return Inventory(host=self.name, vms=self.vms.states(), found=found)

    def images(self) -> list[ImageInfo]:
        """Stored images; one that is damaged is listed as such, so that it can be deleted."""
        users: dict[str, set[str]] = {}
        for vm in self.vms.all():
            users.setdefault(vm.template, set()).add(vm.identity.cluster)
        return [
            image.model_copy(update={"users": sorted(users.get(image.name, ()))})
            for image in self.hypervisor.images()
        ]
