"""The controller's view of a host agent: what it may tell it to do."""

from __future__ import annotations

from copper.model.api import Frozen, HostFacts, ImageInfo, StandbyOrder, ThawOrder, VmStatus
from copper.wire.http import Peer


class Host:
    """One host agent, over HTTP."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def facts(self) -> HostFacts:
        return HostFacts.model_validate(await self._peer.request("GET", "/host/v1/facts"))

    async def images(self) -> list[ImageInfo]:
        found = await self._peer.request("GET", "/host/v1/images")
        return [ImageInfo.model_validate(image) for image in found]

    async def delete_image(self, name: str) -> None:
        await self._peer.request("DELETE", f"/host/v1/images/{name}")

    async def warm(self, image: str) -> None:
        """Has a stored image in memory, checked, and processes ready for it. Raises what is wrong with it."""
        await self._peer.request("POST", f"/host/v1/images/{image}/warm")

    async def vms(self) -> list[VmStatus]:
        found = await self._peer.request("GET", "/host/v1/vms")
        return [VmStatus.model_validate(vm) for vm in found]

    async def thaw(self, order: ThawOrder) -> VmStatus:
        name = order.identity.name
        return VmStatus.model_validate(
            await self._peer.request("PUT", f"/host/v1/vms/{name}", order, timeout_s=600)
        )

    async def end(self, name: str) -> None:
        await self._peer.request("DELETE", f"/host/v1/vms/{name}")

    async def freeze(self, name: str) -> Frozen:
        return Frozen.model_validate(
            await self._peer.request("POST", f"/host/v1/vms/{name}/freeze")
        )

    async def release(self, image: str) -> None:
        await self._peer.request("DELETE", f"/host/v1/frozen/{image}")

    async def prepare(self, vm: str, count: int) -> None:
        await self._peer.request("POST", "/host/v1/standbys", StandbyOrder(vm=vm, count=count))
