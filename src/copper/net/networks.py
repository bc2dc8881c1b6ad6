"""All private networks of one Copper on this host, for its agent: one thread does what blocks, one thing at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from copper.model.errors import CopperError
from copper.model.networks import Exposure
from copper.net import echo, namespaces
from copper.net.private import PrivateNetwork
from copper.net.public import PublicSide
from copper.net.resolvers import Pair, Resolvers, is_bound, open_pairs
from copper.net.world import World
from copper.wire import trace
from copper.wire.undo import undo

T = TypeVar("T")
log = logging.getLogger(__name__)


class Networks:
    """The virtual clusters that have VMs here, each with a namespace `copper-INSTANCE-NAME`.

    A namespace is there from the first VM's tap until the last VM has left, and found again by its name.
    """

    def __init__(self, instance: str, outside: str = "", names: Path | None = None) -> None:
        """`instance` tells this Copper from others of the host. `outside`: a namespace that stands for the host.

        `names`: where the server of names borrows sockets; without one, nobody answers names inside.
        """
        self._prefix = f"copper-{instance}-"
        self._thread = ThreadPoolExecutor(1, "copper-net")
        self._open: dict[str, PrivateNetwork] = {}  # of the thread
        self._users: dict[str, set[int]] = {}
        self._resolvers = Resolvers(names)
        self._answered: set[str] = set()  # of the thread: where the sockets for names are open
        self._linked: dict[str, set[int]] = {}  # of these, who should be on the wire
        self._world = World(instance, self._network, outside)
        self._public = PublicSide(self._world, self._do)

    def namespace_of(self, cluster: str) -> str:
        """The name of its namespace: /run/netns has it while the virtual cluster has VMs here."""
        return self._prefix + cluster

    async def tap(self, cluster: str, vmid: int) -> int:
        """The descriptor of a tap for this VM, the caller's to close: what is sent to it is dropped until `link_up`.

        Names can be asked for in the network by then. The VM has it from now on, until `leave`. Raises CopperError.
        """
        self._users.setdefault(cluster, set()).add(vmid)
        opening = asyncio.ensure_future(self._open_tap(cluster, vmid))
        try:
            return await asyncio.shield(opening)
        except BaseException:
            await undo(self._take_back(cluster, vmid, opening))
            raise

    async def _take_back(self, cluster: str, vmid: int, opening: asyncio.Future[int]) -> None:
        with contextlib.suppress(CopperError):
            os.close(await opening)  # whoever wanted it has gone
        await self.leave(cluster, vmid)

    async def _open_tap(self, cluster: str, vmid: int) -> int:
        tap = await self._do(cluster, lambda: self._network(cluster).tap(vmid))
        await self._answer(cluster)
        return tap

    async def _answer(self, cluster: str) -> None:
        """Has names be answered in this network, if they are not yet. A VM lives without as well: an audit says so."""
        if self._resolvers.answer and cluster not in self._answered:
            self._resolvers.begin(cluster, await self._do(cluster, lambda: self._pairs(cluster)))

    async def link_up(self, cluster: str, vmid: int) -> None:
        """From now on this VM reaches the others and they it; again: no difference. Raises CopperError."""
        with trace.span("link"):
            await self._do(cluster, lambda: self._network(cluster).link_up(vmid))
        if vmid in self._users.get(cluster, ()):
            self._linked.setdefault(cluster, set()).add(vmid)

    async def expose(self, cluster: str, vmid: int, exposure: Exposure) -> None:
        """Has the world reach this VM, and it the world, as this says and in no other way, on return.

        Raises Refused, CopperError: it is as it was.
        """
        await self._public.expose(cluster, vmid, exposure)

    async def connect(self, cluster: str, address: str, port: int) -> socket.socket:
        """A TCP connection from the host's end of this network, the caller's to close. Raises OSError, CopperError."""
        sock = await self._do(cluster, lambda: self._network(cluster).new_socket())
        try:
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def ping(self, cluster: str, address: str, times: int) -> None:
        """Asks a VM for echoes from the host's end of its network, each when it has answered the one before.

        Waits for as long as it takes. Raises OSError, CopperError.
        """
        sock = await self._do(cluster, lambda: self._network(cluster).new_echo_socket())
        with sock:
            for number in range(1, times + 1):
                await echo.echoed(sock, address, number)

    def adopt(self, cluster: str, vmid: int, exposure: Exposure | None = None) -> None:
        """A VM that an earlier agent gave a tap to; `clear` sees to what is in force for all of them."""
        self._users.setdefault(cluster, set()).add(vmid)
        self._public.adopt(cluster, vmid, exposure)

    async def leave(self, cluster: str, vmid: int) -> None:
        """A VM has ended, and its tap with its process; the last one's namespace goes too.

        Nothing leads to it from the world on return.
        """
        self._linked.get(cluster, set()).discard(vmid)
        await self._public.leave(cluster, vmid)
        users = self._users.get(cluster, set())
        users.discard(vmid)
        if not users:
            self._users.pop(cluster, None)
            self._resolvers.end(cluster)
            self._linked.pop(cluster, None)
            await self._do(cluster, lambda: self._remove(cluster))

    async def clear(self) -> None:
        """Removes the namespaces that no VM has, and what is in force for no VM; names are answered in the others."""
        try:
            await self._public.settle()
        except (
            CopperError
        ) as error:  # VMs are there all the same; an audit shows what is not in force
            log.error("the world does not reach VMs as it should: %s", error)
        for cluster in await self._do("", self._clusters):
            if not await self.mend(cluster):
                await self._answer(cluster)

    def found(self) -> dict[str, list[int]]:
        """The virtual clusters that have a namespace, each with the vmids of its taps; not for the event loop."""
        return self._thread.submit(self._look).result()

    def off_wire(self) -> dict[str, dict[int, str]]:
        """By virtual cluster, the VMs that should be on its wire and are not, with why; not for the event loop."""
        return self._thread.submit(self._off_wire).result()

    def exposed(self) -> dict[str, dict[int, str]]:
        """What is in force for each VM, in one line, by virtual cluster; not for the event loop. Raises CopperError."""
        return self._thread.submit(lambda: self._world.found(self._clusters())).result()

    def unanswered(self) -> dict[str, str]:
        """By virtual cluster, why names are not answered in its network, or empty; not for the event loop."""
        if not self._resolvers.answer:
            return {}
        return self._thread.submit(self._look_for_names).result()

    async def mend_names(self, cluster: str) -> None:
        """Has names be answered anew where they are not."""
        if cluster in self._users and (await self._do("", self._look_for_names)).get(cluster):
            self._answered.discard(cluster)
            await self._answer(cluster)

    @property
    def device(self) -> str:
        """The host's end of the way to the world."""
        return self._world.device

    @property
    def way_out(self) -> tuple[str, bool]:
        """The namespace of the way to the world, or none, and whether a VM needs it."""
        return self._world.name if self._world.is_there else "", self._world.is_used

    async def settle(self) -> None:
        """Takes back what is in force for no VM."""
        await self._public.settle()

    async def mend(self, cluster: str, vmid: int | None = None) -> bool:
        """Removes a tap, or a namespace, that no VM has, or puts one's tap on the wire again; False: one has it."""
        if vmid is None:
            if cluster not in self._users:
                await self._do(cluster, lambda: self._remove(cluster))
                return True
        elif vmid not in self._users.get(cluster, ()):
            await self._do(cluster, lambda: self._network(cluster).remove_tap(vmid))
            return True
        elif vmid in self._linked.get(cluster, ()):
            await self._do(cluster, lambda: self._network(cluster).mend(vmid))
            await self._public.settle()  # what led over a bridge that had gone
            return True
        return False

    def cluster_of(self, namespace: str) -> str:
        """Whose a namespace is; empty for what is not this Copper's."""
        return namespace.removeprefix(self._prefix) if namespace.startswith(self._prefix) else ""

    def close(self) -> None:
        """Lets go of all; VMs have their network still. Names are answered again by the next one."""
        self._resolvers.close()
        self._thread.submit(self._close).result()
        self._thread.shutdown()

    # in the thread

    def _network(self, cluster: str) -> PrivateNetwork:
        if cluster not in self._open:
            self._open[cluster] = PrivateNetwork.open(self.namespace_of(cluster))
        return self._open[cluster]

    def _pairs(self, cluster: str) -> list[Pair]:
        if cluster in self._answered:
            return []
        try:
            namespaces.enter(self._network(cluster).name)
            pairs = open_pairs()
        except OSError as error:
            log.error("names cannot be answered in the network of %s: %s", cluster, error.strerror)
            return []
        self._answered.add(cluster)
        return pairs

    def _look_for_names(self) -> dict[str, str]:
        found = {}
        for cluster in self._clusters():
            if cluster in self._users:
                with contextlib.suppress(OSError):
                    namespaces.enter(self.namespace_of(cluster))
                    missed = self._resolvers.is_missed(cluster)
                    found[cluster] = "the server of names does not serve it" if missed else ""
                    if not is_bound():
                        found[cluster] = "names cannot be asked for in its network"
        return found

    def _remove(self, cluster: str) -> None:
        self._answered.discard(cluster)
        network = self._open.pop(cluster, None)
        if network is not None:
            network.close()
        namespaces.go_home()
        namespaces.remove(self.namespace_of(cluster))

    def _clusters(self) -> list[str]:
        return [self.cluster_of(name) for name in namespaces.names(self._prefix)]

    def _look(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for cluster in self._clusters():
            found[cluster] = []
            with contextlib.suppress(OSError):
                network = self._open.get(cluster)
                if network is not None:
                    found[cluster] = network.taps()
                else:
                    with contextlib.closing(PrivateNetwork.find(self.namespace_of(cluster))) as one:
                        found[cluster] = one.taps()
        return found

    def _off_wire(self) -> dict[str, dict[int, str]]:
        found: dict[str, dict[int, str]] = {}
        for cluster, linked in list(self._linked.items()):
            if cluster in self._open:
                with contextlib.suppress(OSError):
                    found[cluster] = self._open[cluster].off_wire(sorted(linked))
        return found

    def _close(self) -> None:
        self._world.close()
        for network in self._open.values():
            network.close()
        self._open.clear()

    async def _do(self, cluster: str, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except OSError as error:
            why = error.strerror or os.strerror(error.errno or 0)
            raise CopperError(
                f"the private network of virtual cluster {cluster} cannot be had: {why}",
                advice="copper doctor says what is missing",
            ) from error
