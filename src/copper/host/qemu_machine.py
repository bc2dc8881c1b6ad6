"""One machine that is a QEMU process: its monitor, its guest's port, its serial line."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from copper.host.cgroups import Groups
from copper.host.console import Console, read_log
from copper.host.guest_port import GuestPort
from copper.host.hypervisor import Listener, Used
from copper.host.use import used_by
from copper.image.freeze import Pause, freeze, shorten
from copper.image.machine import Image as QemuImage
from copper.image.machine import Machine as QemuVm
from copper.image.thaw import run
from copper.model.api import VmLimits
from copper.model.errors import CopperError, TimedOut
from copper.model.machine import Identity, Needs, Shape
from copper.model.networks import Exposure
from copper.model.settings import Settings
from copper.net.networks import Networks
from copper.vmm.alive import shared_out_bytes
from copper.vmm.layers import PAGE
from copper.vmm.paging import page_out
from copper.wire.undo import undo

FIRST_S = 5.0  # that one that begins comes before others, at most
WARM_S = 30.0  # that a guest may take to answer pings
CONNECT_S = 20.0  # that a guest may take to answer: it may be one of many on a busy host
log = logging.getLogger(__name__)


class QemuMachine:
    """A running QEMU. `let_go` is called when it has ended, and when it is left to run on."""

    def __init__(
        self,
        identity: Identity,
        machine: QemuVm,
        listener: Listener,
        settings: Settings,
        groups: Groups,
        networks: Networks,
        *,
        hold_image: Callable[[QemuImage], None],
        let_go: Callable[[QemuMachine, bool], None],
        copies_work: Callable[[], bool],
    ) -> None:
        self.name = name = identity.name
        self._identity, self._networks = identity, networks
        self._machine, self._listener = machine, listener
        self._settings, self._groups = settings, groups
        self._hold_image, self._let_go = hold_image, let_go
        self._copies_work = copies_work
        self._process = machine.process
        self._process.on_exit = self._exited
        self._watcher: asyncio.Task[None] | None = None
        self._warming: asyncio.Task[None] | None = None
        # a guest whose hooks take long is one of many again meanwhile
        self._begins = asyncio.get_running_loop().call_later(FIRST_S, groups.weigh, self.name)
        self._limits = VmLimits()
        self._used = Used(0, 0.0, 0, 0)

        async def on_call(verb: str, args: dict[str, Any], call: int) -> dict[str, Any]:
            return await listener.called(name, verb, args, call)

        self.guest = GuestPort(
            self._process.connect_port(),
            on_call=on_call,
            on_hello=lambda _: listener.said_hello(name),
        )
        self.console = Console(self._process.connect_console(), self._log)

    @property
    def _log(self) -> Path:
        return self._settings.vms_dir / f"{self.name}.log"

    @property
    def has_network(self) -> bool:
        return True

    @property
    def unit(self) -> str:
        return self._process.unit

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def shape(self) -> Shape:
        return self._process.shape

    @property
    def needs(self) -> Needs:
        return self._process.needs

    @property
    def forks_by_copy(self) -> bool:
        return self.needs.accelerator == "tcg" and self._settings.copies

    @property
    def disks(self) -> tuple[Path, ...]:
        return self._machine.disks

    @property
    def spare(self) -> Path | None:
        return self._machine.spare

    @property
    def layers(self) -> int:
        return len(self._machine.layers)

    @property
    def shared_bytes(self) -> int:
        return sum(layer.bytes for layer in self._machine.layers)

    def log(self) -> bytes:
        return read_log(self._log)

    def own_bytes(self) -> int:
        return self._own_bytes(self._process.own_bytes())

    def _own_bytes(self, anonymous: int) -> int:
        """Of its process's anonymous memory what is its own: a copy has most of it in common with others."""
        if not self._process.is_copy:
            return anonymous
        charged = self._groups.charged(self.name)
        return min(anonymous, shared_out_bytes(self.pid) if charged is None else charged)

    async def link_up(self) -> None:
        await self._networks.link_up(self._identity.cluster, self._identity.vmid)
        self._begins.cancel()
        self._groups.weigh(self.name)
        if self.forks_by_copy and not self._process.is_copy and self._warming is None:
            self._warming = asyncio.create_task(self._warm())

    async def _warm(self) -> None:
        """Has an emulated guest answer on its network: code that it translates now no copy of it has to."""
        try:
            async with asyncio.timeout(WARM_S):
                await self._networks.ping(self._identity.cluster, self._identity.ip, times=3)
        except (OSError, CopperError) as error:  # its firewall, perhaps
            log.info("VM %s answers no ping: %s", self.name, error)

    async def _stop_warming(self) -> None:
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)
            self._warming = None  # its error knows this machine: neither would go before all garbage is looked at

    async def connect(self, port: int) -> socket.socket:
        cluster, address = self._identity.cluster, self._identity.ip
        try:
            async with asyncio.timeout(CONNECT_S):
                return await self._networks.connect(cluster, address, port)
        except TimeoutError:
            raise TimedOut(f"port {port} of {self.name} does not answer") from None

    async def expose(self, exposure: Exposure) -> None:
        await self._networks.expose(self._identity.cluster, self._identity.vmid, exposure)

    def used(self) -> Used:
        # not after its end: the number may be another process's
        now = None if self._process.ended.is_set() else used_by(self.pid)
        if now is None:
            self._used = dataclasses.replace(self._used, own_bytes=0)
        else:
            self._used = dataclasses.replace(now, own_bytes=self._own_bytes(now.own_bytes))
        return self._used

    def page_out(self) -> None:
        if not self._process.ended.is_set():
            page_out(self.pid)

    def touched_bytes(self) -> int:
        touched = self._groups.touched(self.name)
        return self._process.own_bytes() if touched is None else touched

    async def collapse(self) -> int:
        """Huge pages for what is wholly its own, but for a fork's pause; bytes. Raises CopperError."""
        gained = offset = 0
        while not self._machine.turn.locked() and not self._process.ended.is_set():
            pages, offset = await self._process.layers.collapse(offset)
            gained += pages * PAGE
            if not offset:
                break
        return gained

    def _exited(self) -> None:
        self.used()

    def limit(self, limits: VmLimits, *, again: bool = False) -> None:
        self._groups.hold(self.name, limits, again=again)
        self._limits = limits

    async def run(self) -> None:
        await run(self._machine)

    async def pause(self) -> None:
        self._process.go_on()
        await self._process.monitor.stop()

    def hold(self) -> None:
        self._process.hold()

    def go_on(self) -> None:
        self._process.go_on()

    async def freeze(self, *, run_on: bool = True) -> tuple[QemuImage, Pause]:
        try:
            fork = run_on and self.forks_by_copy
            with self._groups.lifted(self.name, self._limits):
                image, pause = await freeze(
                    self._machine,
                    self._settings,
                    quiesce=self.guest.quiesce,
                    run_on=run_on,
                    fork=fork,
                    state=not (fork and self._copies_work()),
                )
                await self._move_seed(image)
        finally:
            self.guest.resume()
        self._hold_image(image)
        if run_on:
            shorten(self._machine)
        return image, pause

    async def _move_seed(self, image: QemuImage) -> None:
        """Out of this VM's group, while that has no limit: what copies write is not this VM's."""
        if image.seed is None or self._limits.own_bytes is None:
            return  # it is moved in the background
        try:
            await undo(asyncio.to_thread(self._groups.put_back, image.seed.pid))
        except BaseException:
            image.close()
            raise

    def watch(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        process = self._process
        await process.ended.wait()
        reason = process.monitor.last_words() or process.stderr() or "its QEMU was killed"
        if self._groups.killed_for_memory(self.name):
            most = self._limits.own_bytes
            reason = (
                "its host was out of memory, and the kernel ended it"
                if most is None
                else f"it needed more memory of its own than its limit of {most >> 20} MiB"
            )
        self._watcher = None
        self._listener.ended(self, reason)

    async def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None

    async def end(self) -> None:
        self._begins.cancel()
        await self._stop_warming()
        await self._stop_watching()
        await self.guest.close()
        await self.console.close()
        await self._machine.end()
        await self._groups.remove(self.name)
        await self._networks.leave(self._identity.cluster, self._identity.vmid)
        self._let_go(self, True)

    async def leave(self) -> None:
        self._begins.cancel()
        await self._stop_warming()
        await self._stop_watching()
        await self.guest.close()
        await self.console.close()
        await self._machine.leave()
        self._let_go(self, False)
