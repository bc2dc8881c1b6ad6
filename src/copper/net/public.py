"""What each VM of a host has of the world, as it was told. What is asked for together comes into force together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from copper.model.errors import CopperError, Refused
from copper.model.networks import Exposure
from copper.net.world import World
from copper.wire.undo import undo

Do = Callable[[str, Callable[[], None]], Awaitable[None]]


class PublicSide:
    """All exposures of one host. `do` has the networks' thread do something for a virtual cluster."""

    def __init__(self, world: World, do: Do) -> None:
        self._world = world
        self._do = do
        self._wanted: dict[str, dict[int, Exposure]] = {}
        self._rounds: dict[str, asyncio.Future[None]] = {}
        self._turn = asyncio.Lock()

    async def expose(self, cluster: str, vmid: int, exposure: Exposure) -> None:
        """In force on return, and nothing else for this VM. Raises Refused, CopperError: it is as it was."""
        await self._check(cluster, vmid, exposure)
        before = self._wanted.get(cluster, {}).get(vmid)
        now = None if exposure.is_private else exposure
        if now is None and before is None:
            return
        self._set(cluster, vmid, now)
        try:
            await self._apply(cluster)
        except BaseException:
            self._set(cluster, vmid, before)
            with contextlib.suppress(CopperError):
                await undo(self._apply(cluster))
            raise

    def adopt(self, cluster: str, vmid: int, exposure: Exposure | None) -> None:
        """What an earlier agent brought into force; `settle` sees to it when all are known."""
        self._set(cluster, vmid, exposure)

    async def leave(self, cluster: str, vmid: int) -> None:
        """A VM has ended: nothing is in force for it on return."""
        before = self._wanted.get(cluster, {}).get(vmid)
        if before is None:
            return
        self._set(cluster, vmid, None)
        try:
            await self._apply(cluster)
        except Refused:  # of another that is brought into force with it
            await self._apply(cluster)
        except CopperError:
            self._set(cluster, vmid, before)  # it can be told to end again
            raise

    async def settle(self) -> None:
        """Has all that is wanted be in force, and nothing else."""
        async with self._turn:
            wanted = {cluster: dict(exposures) for cluster, exposures in self._wanted.items()}
            await self._do("", lambda: self._world.apply(wanted))

    async def _check(self, cluster: str, vmid: int, exposure: Exposure) -> None:
        for one in exposure.addresses:
            for other, exposures in self._wanted.items():
                for whose, has in exposures.items():
                    if (other, whose) != (cluster, vmid) and any(
                        address.address == one.address for address in has.addresses
                    ):
                        raise Refused(f"{one.address} is brought to {has.vm} already")
        await self._do(cluster, lambda: self._world.check(exposure))

    def _set(self, cluster: str, vmid: int, exposure: Exposure | None) -> None:
        mine = self._wanted.setdefault(cluster, {})
        mine.pop(vmid, None)
        if exposure is not None:
            mine[vmid] = exposure
        if not mine:
            del self._wanted[cluster]

    async def _apply(self, cluster: str) -> None:
        """Returns after a round that began later than this call; many calls share one."""
        if cluster not in self._rounds:
            self._rounds[cluster] = asyncio.ensure_future(self._round(cluster))
        await asyncio.shield(self._rounds[cluster])

    async def _round(self, cluster: str) -> None:
        async with self._turn:
            del self._rounds[cluster]
            wanted = {cluster: dict(self._wanted.get(cluster, {}))}
            await self._do(cluster, lambda: self._world.apply(wanted))
