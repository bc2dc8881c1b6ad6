"""What is done to the whole of a virtual cluster: pause, suspend to disk, and back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Literal

from copper.controller.book import Book
from copper.controller.capacity import left_of
from copper.controller.clusters import Progress, no_progress
from copper.controller.endings import Endings
from copper.controller.exposures import Exposures
from copper.controller.forks import Forks
from copper.controller.hosts import Hosts
from copper.controller.placement import Wish, place
from copper.controller.rows import LIVE, ClusterRow, cluster_key, user_key, vm_key
from copper.controller.terms import OverLimit
from copper.model.api import Vm, VmEnded, VmState
from copper.model.errors import Conflict, CopperError, NoRoom
from copper.model.networks import Exposure
from copper.model.users import User
from copper.wire.steps import step

log = logging.getLogger(__name__)


class Whole:
    """Pause and unpause, suspend and resume, kill: each of all VMs of one virtual cluster."""

    def __init__(
        self, book: Book, hosts: Hosts, endings: Endings, forks: Forks, exposures: Exposures
    ) -> None:
        self._book = book
        self._hosts = hosts
        self._endings = endings
        self._forks = forks
        self._exposures = exposures
        self._boots: dict[str, asyncio.Task[Vm]] = {}

    def busy(self) -> list[str]:
        """The virtual clusters that this is at work on."""
        return sorted(self._forks.closed)

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
            vms = await self._there(name, vms)
            todo = [vm for vm in vms if vm.state == have]
            told: list[Vm] = []
            try:
                for vm in todo:
                    told.append(vm)  # one that fails may have done it all the same
                    host = self._hosts.get(vm.host)
                    await (host.pause(vm.name) if want == "paused" else host.unpause(vm.name))
                    progress(len(told), len(todo))
                verb = "pause" if want == "paused" else "unpause"
                await step(f"{verb}.ordered")
                await self._write(name, todo, want)
                await step(f"{verb}.written")
            except BaseException:
                await asyncio.shield(self._as_they_were(told, have))
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
            try:
                await self._intend(name, "suspend")
                await step("suspend.planned")
            except BaseException:
                await asyncio.shield(self._intend(name, ""))
                raise
            return await self.finish_suspend(name, progress)

    async def finish_suspend(self, name: str, progress: Progress = no_progress) -> list[str]:
        """Does what is intended; may be repeated."""
        vms = [vm for vm in self._book.vms(name) if vm.state in ("running", "paused")]
        told: list[str] = []
        done = 0
        try:
            vms = await self._there(name, vms)
            for host, there in _by_host(vms).items():
                told.append(host)  # one that fails may have done it all the same
                await self._hosts.get(host).suspend(name, [vm.name for vm in there])
                done += len(there)
                progress(done, len(vms))
            await step("suspend.stored")
        except BaseException:
            await asyncio.shield(self._back(name, told))
            raise
        try:
            await asyncio.shield(self._write(name, vms, "suspended", intent=""))
        except CopperError:  # it cannot be written down
            await asyncio.shield(self._back(name, told))
            raise
        await step("suspend.written")
        return [vm.name for vm in vms]

    async def _there(self, name: str, vms: Sequence[Vm]) -> list[Vm]:
        """Those that their hosts have: one that ended a moment ago is not waited for. Raises Conflict for none."""
        have: set[str] = set()
        for host in _by_host(vms):
            link = self._hosts.get(host)
            have |= {status.name for status in await link.vms()}
            have.update((await link.suspended()).get(name, []))
        for vm in vms:
            if vm.name not in have:
                await self._endings.ended(VmEnded(vm=vm.name, reason="it ended with its host"))
        left = [vm for vm in vms if vm.name in have]
        if vms and not left:
            raise _not_running(name)
        return left

    async def _back(self, name: str, hosts: Sequence[str]) -> None:
        """A suspend that failed on one host: all run again; a host that fails now is told when it answers."""
        for host in hosts:
            try:
                await self._hosts.get(host).resume(name)
            except CopperError as error:
                log.warning("virtual cluster %s is not resumed on %s: %s", name, host, error)
        await self._intend(name, "")

    async def resume(self, name: str, progress: Progress = no_progress) -> list[str]:
        """Gives every VM back as it was, paused or running. Raises NoRoom: then all stay suspended."""
        with self._alone(name):
            vms = [vm for vm in self._book.vms(name) if vm.state in LIVE]
            if vms and all(vm.state == "running" for vm in vms):
                return [vm.name for vm in vms]
            self._check(name, vms, ("suspended",))
            await self._room_for(name, vms)
            # from here to the submission nothing else is decided
            key = cluster_key(name)
            row = self._book.cluster(name)
            starting = {vm_key(vm.name): vm.model_copy(update={"state": "starting"}) for vm in vms}
            written = self._book.submit(
                expect={key: row, **{vm_key(vm.name): vm for vm in vms}},
                put={**starting, key: row.model_copy(update={"intent": "resume"})},
            )
            return await self.finish_resume(name, progress, written)

    async def finish_resume(
        self,
        name: str,
        progress: Progress = no_progress,
        written: asyncio.Task[int] | None = None,
    ) -> list[str]:
        """Does what is intended, once that is written; may be repeated."""
        vms = [vm for vm in self._book.vms(name) if vm.state == "starting"]
        states: dict[str, VmState] = {}
        told: dict[str, Exposure | None] = {}
        try:
            if written is not None:
                await asyncio.shield(written)
                await step("resume.planned")
            for host, there in _by_host(vms).items():
                await self._hosts.get(host).resume(name)
                found = {status.name: status for status in await self._hosts.get(host).vms()}
                states |= dict.fromkeys((vm.name for vm in there), "running")
                states |= {vm.name: found[vm.name].state for vm in there if vm.name in found}
                # its addresses are the same, what leads to it may not be
                has = {name: status.exposure for name, status in found.items()}
                await self._exposures.follow(there, has)
                told |= {vm.name: self._exposures.ordered(vm) for vm in there}
                progress(len(states), len(vms))
            await step("resume.thawed")
        except BaseException:
            await asyncio.shield(self._suspended_again(name, vms))
            raise
        try:
            await asyncio.shield(self._write(name, vms, states, intent=""))
        except CopperError:  # it cannot be written down
            await asyncio.shield(self._suspended_again(name, vms))
            raise
        await step("resume.written")
        await self._told_since(name, told)
        return [vm.name for vm in vms]

    async def _told_since(self, name: str, told: Mapping[str, Exposure | None]) -> None:
        """Tells hosts what was decided of VMs' addresses while they were no VMs that run."""
        try:
            await self._exposures.follow(self._book.vms(name), told)
        except CopperError as error:  # they run; the host is told again when it reports
            log.warning("virtual cluster %s: %s", name, error)

    async def _suspended_again(self, name: str, vms: Sequence[Vm]) -> None:
        """A host keeps what is stored until all of it runs; those that ran on other hosts are stored anew."""
        for host in _by_host(vms):
            try:
                await self._store_again(name, host)
            except CopperError as error:
                log.warning("virtual cluster %s is not suspended on %s: %s", name, host, error)
        await self._write(name, vms, "suspended", intent="")

    async def _store_again(self, name: str, host: str) -> None:
        link = self._hosts.get(host)
        rows = {vm.name for vm in self._book.vms(name) if vm.state in ("starting", "suspended")}
        names = [status.name for status in await link.vms() if status.name in rows]
        if names:
            await link.suspend(name, names)

    async def as_written(self, name: str, host: str) -> None:
        """A host that lost contact while it suspended or resumed does what is written down. Raises Conflict."""
        with self._alone(name):
            there = [vm for vm in self._book.vms(name) if vm.host == host]
            if any(vm.state in ("running", "paused") for vm in there):
                await self._hosts.get(host).resume(name)
            else:
                await self._store_again(name, host)

    async def _room_for(self, name: str, vms: Sequence[Vm]) -> None:
        """Returns with the rows settled. Raises NoRoom when a host, or the quota, does not allow all of them."""
        for again in (False, True):
            await self._book.cluster_settled(name)
            try:
                self._check_quota(self._book.cluster(name).owner, vms)
                for host, there in _by_host(vms).items():
                    self._check_room(host, there)
                return
            except NoRoom:
                if again:
                    raise
                await self._hosts.refresh(*_by_host(vms))

    def _check_room(self, host: str, vms: Sequence[Vm]) -> None:
        room = self._hosts.capacity.room(host)
        wish = Wish(
            vms=len(vms),
            least=len(vms),
            cpus=vms[0].cpus,
            memory=max(vm.reserved_bytes for vm in vms),
            near=host,
        )
        place([room] if room is not None else [], wish)

    def _check_quota(self, owner: str, vms: Sequence[Vm]) -> None:
        user = self._book.find(user_key(owner), User)
        if user is None:
            return
        each = max(vm.reserved_bytes for vm in vms)
        left = left_of(self._hosts.capacity.owners[owner], user.quota, vms[0].cpus, each)
        if left is not None and left < len(vms):
            raise OverLimit(
                f"user {owner} may have {left} more VMs by their quota, not {len(vms)}",
                advice="kill others, or have the quota raised",
            )

    async def boot(self, name: str, work: Callable[[], Coroutine[Any, Any, Vm]]) -> Vm:
        """Boots it by `work`, which a kill ends: it undoes itself. Raises Conflict then."""
        if any(vm.state in LIVE for vm in self._book.vms(name)):  # it may be forked meanwhile
            raise Conflict(
                f"virtual cluster {name!r} runs already", advice=f"gc-vc kill {name} ends it"
            )
        with self._alone(name):
            boot = self._boots[name] = asyncio.create_task(work())
            try:
                return await boot
            except asyncio.CancelledError:
                me = asyncio.current_task()
                if me is not None and me.cancelling():
                    raise
                raise Conflict(f"virtual cluster {name!r} was killed") from None
            finally:
                del self._boots[name]

    async def kill(self, name: str, progress: Progress = no_progress) -> list[str]:
        """Ends all VMs of a virtual cluster; returns their names. It can be booted again."""
        self._book.cluster(name)
        if name in self._boots:
            self._boots[name].cancel()
        while name in self._forks.closed:  # what is half suspended or half resumed is not ended
            await self._forks.closed[name].wait()
        with self._alone(name):
            await self._forks.end(name)
            await self._book.cluster_settled(name)
            vms = self._book.vms(name)
            progress(0, len(vms))
            await self._endings.end(vms)
            progress(len(vms), len(vms))
            return [vm.name for vm in vms if vm.state in LIVE]

    async def _intend(self, name: str, intent: Literal["", "suspend", "resume"]) -> None:
        await self._book.settled(cluster_key(name))
        row = self._book.cluster(name)
        changed = row.model_copy(update={"intent": intent})
        await self._book.commit(expect={cluster_key(name): row}, put={cluster_key(name): changed})

    async def _write(
        self,
        name: str,
        vms: Sequence[Vm],
        state: VmState | Mapping[str, VmState],
        intent: Literal["", "keep"] = "keep",
    ) -> None:
        """All VMs change their state at once; one that ended meanwhile stays as it is."""
        await self._book.cluster_settled(name)
        put: dict[str, Vm | ClusterRow] = {}
        for vm in vms:
            now_there = self._book.find(vm_key(vm.name), Vm)
            if now_there is not None and now_there.state == vm.state:
                new = state if isinstance(state, str) else state[vm.name]
                put[vm_key(vm.name)] = now_there.model_copy(update={"state": new})
        if intent == "":
            row = self._book.cluster(name)
            put[cluster_key(row.name)] = row.model_copy(update={"intent": ""})
        await self._book.commit(put=put)

    def _check(self, name: str, vms: Sequence[Vm], states: tuple[VmState, ...]) -> None:
        """Raises Conflict for a virtual cluster that is not in one of these states, whole."""
        if not vms:
            raise _not_running(name)
        if self._forks.of(name):
            raise Conflict(f"virtual cluster {name!r} is being forked", advice="try again")
        for vm in vms:
            if vm.state not in states:
                raise Conflict(f"VM {vm.name} is {vm.state}, not {' or '.join(states)}")

    def check_apart(self, vms: Sequence[Vm]) -> None:
        """Raises Conflict for VMs that cannot be ended apart from the rest: they are stored, or about to be."""
        for vm in vms:
            if vm.cluster in self._forks.closed:
                raise _being_changed(vm.cluster)
            if vm.state == "suspended":
                raise Conflict(
                    f"VM {vm.name} is suspended", advice=f"gc-vc kill {vm.cluster} ends all"
                )

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """One such verb at a time for each virtual cluster, and no fork of it meanwhile. Raises Conflict."""
        self._book.cluster(name)
        if name in self._forks.closed:
            raise _being_changed(name)
        over = self._forks.closed[name] = asyncio.Event()
        try:
            yield
        finally:
            del self._forks.closed[name]
            over.set()


def _not_running(name: str) -> Conflict:
    return Conflict(f"virtual cluster {name!r} does not run", advice=f"gc-vc boot {name} boots it")


def _being_changed(name: str) -> Conflict:
    return Conflict(f"virtual cluster {name!r} is being changed by another", advice="try again")


def _by_host(vms: Sequence[Vm]) -> dict[str, list[Vm]]:
    hosts: dict[str, list[Vm]] = {}
    for vm in vms:
        hosts.setdefault(vm.host, []).append(vm)
    return hosts
