"""What is done to the whole of a virtual cluster: pause, suspend to disk, and back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Literal

from copper.controller.book import Book
from copper.controller.clusters import Clusters, Progress, no_progress
from copper.controller.forks import Forks
from copper.controller.hosts import Hosts
from copper.controller.placement import Wish, place
from copper.controller.rows import LIVE, ClusterRow, cluster_key, vm_key
from copper.model.api import Vm, VmState
from copper.model.errors import Conflict, CopperError
from copper.wire.steps import step

log = logging.getLogger(__name__)


class Whole:
    """Pause and unpause, suspend and resume, kill: each of all VMs of one virtual cluster."""

    def __init__(self, book: Book, hosts: Hosts, clusters: Clusters, forks: Forks) -> None:
        self._book = book
        self._hosts = hosts
        self._clusters = clusters
        self._forks = forks
        self._at_work: set[str] = set()

    async def pause(self, name: str, progress: Progress = no_progress) -> list[str]:
        """Stops the processors of all VMs; their memory stays. Returns their names. Raises Conflict."""
        return await self._stop_or_go(name, "running", "paused", progress)

    async def unpause(self, name: str, progress: Progress = no_progress) -> list[str]:
        return await self._stop_or_go(name, "paused", "running", progress)

    async def _stop_or_go(
        self, name: str, have: VmState, want: VmState, progress: Progress
    ) -> list[str]:
        with self._alone(name):
            vms = [vm for vm in self._book.vms(name) if vm.state in LIVE]
            self._check(name, vms, (have, want))
            todo = [vm for vm in vms if vm.state == have]
            done: list[Vm] = []
            try:
                for vm in todo:
                    host = self._hosts.get(vm.host)
                    await (host.pause(vm.name) if want == "paused" else host.unpause(vm.name))
                    done.append(vm)
                    progress(len(done), len(todo))
                verb = "pause" if want == "paused" else "unpause"
                await step(f"{verb}.ordered")
                await self._write(todo, want)
                await step(f"{verb}.written")
            except BaseException:
                await asyncio.shield(self._as_they_were(done, have))
                raise
            return [vm.name for vm in vms]

    async def _as_they_were(self, vms: Sequence[Vm], state: VmState) -> None:
        for vm in vms:
            host = self._hosts.get(vm.host)
            try:
                await (host.pause(vm.name) if state == "paused" else host.unpause(vm.name))
            except CopperError as error:
                log.warning("VM %s is not %s again: %s", vm.name, state, error)

    async def suspend(self, name: str, progress: Progress = no_progress) -> list[str]:
        """Stores all VMs on their hosts' disks and ends them: no memory, no processes. Returns their names.

        Either all are suspended or all go on. What was begun when the controller ended is finished by the next.
        """
        with self._alone(name):
            vms = [vm for vm in self._book.vms(name) if vm.state in LIVE]
            if vms and all(vm.state == "suspended" for vm in vms):
                return [vm.name for vm in vms]
            self._check(name, vms, ("running", "paused"))
            await self._intend(name, "suspend")
            await step("suspend.planned")
            return await self.finish_suspend(name, progress)

    async def finish_suspend(self, name: str, progress: Progress = no_progress) -> list[str]:
        """Does what is intended; may be repeated."""
        vms = [vm for vm in self._book.vms(name) if vm.state in ("running", "paused")]
        by_host = _by_host(vms)
        done: list[str] = []
        try:
            for host, there in by_host.items():
                await self._hosts.get(host).suspend(name, [vm.name for vm in there])
                done.append(host)
                progress(sum(len(by_host[one]) for one in done), len(vms))
            await step("suspend.stored")
        except BaseException:
            await asyncio.shield(self._back(name, done))
            raise
        await self._write(vms, "suspended", intent="")
        await step("suspend.written")
        return [vm.name for vm in vms]

    async def _back(self, name: str, hosts: Sequence[str]) -> None:
        """A suspend that failed on one host: those of the others run again."""
        for host in hosts:
            await self._hosts.get(host).resume(name)
        await self._intend(name, "")

    async def resume(self, name: str, progress: Progress = no_progress) -> list[str]:
        """Gives every VM back as it was. Raises NoRoom: then all stay suspended."""
        with self._alone(name):
            vms = [vm for vm in self._book.vms(name) if vm.state in LIVE]
            if vms and all(vm.state == "running" for vm in vms):
                return [vm.name for vm in vms]
            self._check(name, vms, ("suspended",))
            for host, there in _by_host(vms).items():
                await self._room_for(host, there)
            row = self._book.cluster(name)
            starting = [vm.model_copy(update={"state": "starting"}) for vm in vms]
            put = {vm_key(vm.name): vm for vm in starting}
            await self._book.commit(
                expect={vm_key(vm.name): vm for vm in vms},
                put={**put, cluster_key(name): row.model_copy(update={"intent": "resume"})},
            )
            await step("resume.planned")
            return await self.finish_resume(name, progress)

    async def finish_resume(self, name: str, progress: Progress = no_progress) -> list[str]:
        """Does what is intended; may be repeated."""
        vms = [vm for vm in self._book.vms(name) if vm.state == "starting"]
        by_host = _by_host(vms)
        try:
            done = 0
            for host, there in by_host.items():
                await self._hosts.get(host).resume(name)
                done += len(there)
                progress(done, len(vms))
            await step("resume.thawed")
        except BaseException:
            await asyncio.shield(self._suspended_again(name, vms))
            raise
        await self._write(vms, "running", intent="")
        await step("resume.written")
        return [vm.name for vm in vms]

    async def _suspended_again(self, name: str, vms: Sequence[Vm]) -> None:
        """A host keeps what is stored until all of it runs; those that ran on other hosts are stored anew."""
        for host, there in _by_host(vms).items():
            try:
                running = {vm.name for vm in await self._hosts.get(host).vms()}
                names = [vm.name for vm in there if vm.name in running]
                if names:
                    await self._hosts.get(host).suspend(name, names)
            except CopperError as error:
                log.warning("virtual cluster %s is not suspended on %s: %s", name, host, error)
        await self._write(vms, "suspended", intent="")

    async def _room_for(self, host: str, vms: Sequence[Vm]) -> None:
        """Raises NoRoom when a host does not take all of them back."""
        for again in (False, True):
            room = self._hosts.capacity.room(host)
            wish = Wish(
                vms=len(vms),
                least=len(vms),
                cpus=vms[0].cpus,
                memory=max(vm.reserved_bytes for vm in vms),
                near=host,
            )
            try:
                place([room] if room is not None else [], wish)
                return
            except CopperError:
                if again:
                    raise
                await self._hosts.refresh(host)

    async def kill(self, name: str, progress: Progress = no_progress) -> list[str]:
        """Ends all VMs of a virtual cluster; returns their names. It can be booted again."""
        self._book.cluster(name)
        await self._forks.end(name)
        vms = self._book.vms(name)
        progress(0, len(vms))
        stored = _by_host([vm for vm in vms if vm.state == "suspended"])
        await self._clusters.end(vms)
        for host in stored:  # not before: rows of what is no longer stored could never be resumed
            await self._hosts.get(host).discard(name)
        progress(len(vms), len(vms))
        if self._book.cluster(name).intent:
            await self._intend(name, "")
        return [vm.name for vm in vms if vm.state in LIVE]

    async def _intend(self, name: str, intent: Literal["", "suspend", "resume"]) -> None:
        await self._book.settled(cluster_key(name))
        row = self._book.cluster(name)
        changed = row.model_copy(update={"intent": intent})
        await self._book.commit(expect={cluster_key(name): row}, put={cluster_key(name): changed})

    async def _write(
        self, vms: Sequence[Vm], state: VmState, intent: Literal["", "keep"] = "keep"
    ) -> None:
        """All VMs change their state at once; one that ended meanwhile stays as it is."""
        keys = [vm_key(vm.name) for vm in vms]
        await self._book.settled(*keys)
        put: dict[str, Vm | ClusterRow] = {}
        for vm in vms:
            now_there = self._book.find(vm_key(vm.name), Vm)
            if now_there is not None and now_there.state == vm.state:
                put[vm_key(vm.name)] = now_there.model_copy(update={"state": state})
        if intent == "" and vms:
            row = self._book.cluster(vms[0].cluster)
            put[cluster_key(row.name)] = row.model_copy(update={"intent": ""})
        await self._book.commit(put=put)

    def _check(self, name: str, vms: Sequence[Vm], states: tuple[VmState, ...]) -> None:
        """Raises Conflict for a virtual cluster that is not in one of these states, whole."""
        if not vms:
            raise Conflict(
                f"virtual cluster {name!r} does not run", advice=f"gc-vc boot {name} boots it"
            )
        if self._forks.of(name):
            raise Conflict(f"virtual cluster {name!r} is being forked", advice="try again")
        for vm in vms:
            if vm.state not in states:
                raise Conflict(f"VM {vm.name} is {vm.state}, not {' or '.join(states)}")

    def _alone(self, name: str) -> _Alone:
        self._book.cluster(name)
        return _Alone(self._at_work, name)


class _Alone:
    """One such verb at a time for each virtual cluster. Raises Conflict for the second."""

    def __init__(self, at_work: set[str], name: str) -> None:
        self._at_work, self._name = at_work, name

    def __enter__(self) -> None:
        if self._name in self._at_work:
            raise Conflict(
                f"virtual cluster {self._name!r} is being changed by another", advice="try again"
            )
        self._at_work.add(self._name)

    def __exit__(self, *_: object) -> None:
        self._at_work.discard(self._name)


def _by_host(vms: Sequence[Vm]) -> dict[str, list[Vm]]:
    hosts: dict[str, list[Vm]] = {}
    for vm in vms:
        hosts.setdefault(vm.host, []).append(vm)
    return hosts
