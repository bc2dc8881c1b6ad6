"""The frozen images of one host: each is held from its freeze until the fork that it was made for lets go of it."""

from __future__ import annotations

from copper.host.hypervisor import Hypervisor, Image
from copper.host.vm import Vm
from copper.image.freeze import Pause
from copper.model.errors import Conflict, CopperError, NotFound
from copper.wire.steps import step


class FrozenImages:
    """By their ids; a fork's clones, and what is made of it on other hosts, ask for them by these."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._held: dict[str, tuple[Image, str]] = {}

    async def freeze(self, vm: Vm) -> tuple[Image, Pause]:
        """Freezes a VM, in its turn, and holds the image. Raises Conflict when it ends meanwhile, NoRoom, CopperError.

        Nothing is held then.
        """
        ended = Conflict(f"VM {vm.name} ended while it was forked")
        try:
            image, pause = await vm.freeze()
        except CopperError as error:
            if vm.state == "ending":
                raise ended from error
            raise
        if vm.state == "ending":  # and its disk went with it
            self._hypervisor.discard(image)
            raise ended
        self._held[image.id] = (image, vm.template)
        return image, pause

    def get(self, image_id: str) -> tuple[Image, str]:
        """An image and its template's name. Raises NotFound."""
        if image_id not in self._held:
            raise NotFound(f"there is no image {image_id!r} in this host's memory")
        return self._held[image_id]

    async def release(self, image_id: str) -> None:
        """Lets go of a frozen image: it goes with the last VM that stands on it."""
        held = self._held.pop(image_id, None)
        if held is not None:
            self._hypervisor.discard(held[0])
            await step("host.released")

    async def release_all(self) -> None:
        """Lets go of all frozen images: nobody goes on with what they were made for."""
        for image_id in list(self._held):
            await self.release(image_id)
