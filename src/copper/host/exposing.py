"""How the world reaches a VM of this host, changed while it runs."""

from __future__ import annotations

from copper.host.vm import Vm
from copper.host.vms import Vms
from copper.model.errors import NoRoom
from copper.model.networks import Exposure


async def expose(vms: Vms, name: str, exposure: Exposure) -> Vm:
    """Has what `exposure` says be in force, and written down, on return. Raises NotFound, Refused: it is as it was."""
    vm = vms.get(name)
    async with vm.turn:
        before = vm.exposure
        await vm.machine.expose(exposure)
        vm.exposure = None if exposure.is_private else exposure
        try:
            vms.write_down(vm)
        except NoRoom:
            vm.exposure = before
            await vm.machine.expose(before or private(exposure))
            raise
    return vm


def private(exposure: Exposure) -> Exposure:
    """That the world does not reach it, nor it the world."""
    return Exposure(vm=exposure.vm, cluster=exposure.cluster, private=exposure.private)
