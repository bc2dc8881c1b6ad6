"""Whatever users, hosts and time do, and wherever the controller is killed: what is promised is there, once, and fits.

Hypothesis makes up the story; COPPER_SOAK=1 makes it tell many more, each of them longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine, Iterable
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from copper.controller import tickets
from copper.controller.rows import LIVE
from copper.model.api import Vm, VmEnded
from copper.model.errors import CopperError
from copper.store.contract import Store
from copper.store.memory import MemoryStore
from tests.cluster.chance import CLUSTERS, EXPIRES_S, FAULTS, Host, Loop, Op, Paced, furnish, ops
from tests.cluster.cuts import Cut, Dead
from tests.cluster.fakes import World, until
from tests.cluster.promises import (
    Promise,
    check_addresses,
    check_free,
    check_in_force,
    check_sums,
    check_tickets,
    unlike,
)

SOAK = bool(os.environ.get("COPPER_SOAK"))


class Story(RuleBasedStateMachine):
    """Three hosts, three users, four virtual clusters, and controllers that follow each other."""

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.loop = Loop()
        self.seed = seed
        self.store = MemoryStore()
        made: set[str] = set()
        self.hosts = [
            Host("h1", 6, 4, 32, made),
            Host("h2", 9, 2, 16, made),
            Host("h3", 4, 8, 32, made),
        ]
        self.now = 1000.0
        self.real_clock = tickets.since_boot  # type: ignore[attr-defined]
        tickets.since_boot = lambda: self.now  # type: ignore[attr-defined]
        self.promises: dict[str, Promise] = {}
        # that were acknowledged and nobody has begun to end; the how-manieth
        self.vms: dict[str, int] = {}
        self.acknowledged = 0
        self.kills: dict[str, int] = dict.fromkeys(CLUSTERS, 0)  # that were begun
        self.killing: list[str] = []
        self.left = 0  # calls until the controller is killed; 0: it is not
        self.broken: list[str] = []
        self.world: World | None = None
        self.run(self.start())
        self.run(self._users())

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        async def in_time() -> None:
            async with asyncio.timeout(300):
                await work

        self.loop.run_until_complete(in_time())
        assert not self.broken, self.broken

    async def _users(self) -> None:
        assert self.world is not None
        await furnish(self.world)
        for number in range(4):
            await self.op(("boot", number, 0))
        for number in range(4):
            await self.op(("fork", number, 0))
        await self.settle()

    # controllers

    async def start(self, kill_after: int = 0) -> None:
        """A new controller over the same store and hosts; it may be killed while it starts."""
        while True:
            self.cut, self.left = Cut(), kill_after
            self.seed += 1
            store = self.cut.store(cast("Store", Paced(self.store, self.seed, self.passed)))
            world = World(store=store, hosts=list(self.hosts), ticket_expires_s=EXPIRES_S)
            for number, host in enumerate(self.hosts):
                paced = Paced(host, self.seed * 10 + number, self.passed)
                world.core.hosts.add(host.name, self.cut.host(paced))
            self.world = world
            starting = asyncio.create_task(world.__aenter__())
            await asyncio.wait({starting})
            outcome = (await asyncio.gather(starting, return_exceptions=True))[0]
            if not isinstance(outcome, BaseException):
                return
            if not self.cut.dead.is_set():
                raise outcome
            await self.bury()
            kill_after = 0

    async def bury(self) -> None:
        """What a killed controller still does reaches nobody; all of it ends."""
        assert self.world is not None
        self.cut.kill()
        with contextlib.suppress(Dead, CopperError):
            await self.world.__aexit__()
        while rest := asyncio.all_tasks() - {asyncio.current_task()} - self.callers():
            for task in rest:
                task.cancel()
            await asyncio.wait(rest)
            await asyncio.gather(*rest, return_exceptions=True)

    def callers(self) -> set[asyncio.Task[Any] | None]:
        return {task for task in asyncio.all_tasks() if task.get_name() == "story"}

    def passed(self) -> None:
        """Between any two calls to store and hosts: nothing is given out twice, and the controller may end."""
        if self.cut.dead.is_set():
            return
        assert self.world is not None
        with self.noted():
            check_sums(self.world.core, self.hosts)
            check_addresses(self.world.core)
        if self.left:
            self.left -= 1
            if self.left == 0:
                self.cut.kill()

    @contextlib.contextmanager
    def noted(self) -> Any:
        try:
            yield
        except AssertionError as error:
            self.broken.append(str(error))

    # what is done

    def pick(self, names: Iterable[str], number: int) -> str | None:
        found = list(names)
        return found[number % len(found)] if found else None

    async def op(self, op: Op) -> None:
        """One thing that somebody does, and what they know of it afterwards."""
        verb, one, two = op
        assert self.world is not None
        core = self.world.core
        cluster = "abcd"[one % 4]
        vm = self.pick(self.vms, one * 8 + two) or "a-0"
        kills = dict(self.kills)
        match verb:
            case "fault":  # until all that is done together is done
                what = self.hosts[one % 3].fail if two % 2 else self.hosts[one % 3].lose
                what.add(FAULTS[(one + two) % len(FAULTS)])
            case "boot":
                self._know([await core.boot(cluster)], kills)
            case "ask" | "wait":
                expires, who = self.now + EXPIRES_S, self.vms.get(vm)
                timeout_ms = 30 if verb == "wait" else 0
                ticket = await self.world.ticket(vm, 2 * (one + 1), 1 + two % 3, 1, timeout_ms)
                if who is not None and self.vms.get(vm) == who:  # it has not been ended meanwhile
                    self.promises[ticket] = Promise(vm, expires)
            case "use":
                await self._use(two)
            case "fork":
                self._know(await core.clone(vm, 1 + two % 4), kills)
            case "kill-some":
                clones = [name for name in self.vms if name.startswith(f"{cluster}-")]
                going = [name for name in clones if not name.endswith("-0")][: 1 + two % 3]
                if going:
                    self._forget(going)
                    await core.end(going)
                    assert not set(going) & {row.name for row in self.world.book.vms()}
            case "kill-all":
                self._forget([name for name in self.vms if name.startswith(f"{cluster}-")])
                self.kills[cluster] += 1
                self.killing.append(cluster)
                try:
                    await core.kill(cluster)
                finally:
                    self.killing.remove(cluster)
            case "release":
                released = self.pick(self.promises, two)
                if released:
                    del self.promises[released]
                    await core.release_ticket(released)
            case "die":
                await self._die(vm)
            case _:
                await getattr(core, verb)(cluster)

    async def _use(self, number: int) -> None:
        assert self.world is not None
        if not self.promises:
            await self.op(("ask", number, number))
        ticket = self.pick(self.promises, number)
        if ticket is None:
            return
        kills = dict(self.kills)
        promise = self.promises.pop(ticket)  # from here on it may be used, or not
        core = self.world.core
        row = self.world.book.ticket(ticket)
        who = self.vms.get(promise.holder)
        try:
            made = await core.clone(promise.holder, ticket=ticket)
        except CopperError:
            sound = not self.cut.dead.is_set() and not any(host.silent for host in self.hosts)
            if sound and self.now < promise.expires and self.vms.get(promise.holder) == who:
                self.promises[ticket] = promise  # a fork that fails leaves its ticket as it was
            raise
        assert len(made) == row.vms
        self._know(made, kills)

    def _know(self, vms: Iterable[Vm], kills: dict[str, int]) -> None:
        """These were acknowledged, and their cluster was not being killed meanwhile."""
        for vm in vms:
            if self.kills[vm.cluster] == kills[vm.cluster] and vm.cluster not in self.killing:
                self.acknowledged += 1
                self.vms[vm.name] = self.acknowledged

    async def _die(self, vm: str) -> None:
        assert self.world is not None
        for host in self.hosts:
            if vm in host.running and not host.silent:
                self._forget([vm])
                del host.running[vm]
                host.exposed.pop(vm, None)
                host.paused.discard(vm)
                await self.world.core.ended(VmEnded(vm=vm, reason="it crashed"))

    def _forget(self, going: list[str]) -> None:
        """These VMs may end from now on, and with them the tickets that they hold."""
        for name in going:
            self.vms.pop(name, None)
        self.promises = {
            ticket: promise
            for ticket, promise in self.promises.items()
            if promise.holder not in going
        }

    async def together(self, many: list[Op]) -> None:
        """All at once; returns when all are done, or the controller is killed."""
        tasks = [asyncio.create_task(self.op(op), name="story") for op in many]
        killed = asyncio.create_task(self.cut.dead.wait(), name="story")
        rest: set[asyncio.Task[Any]] = set(tasks)
        while rest and not self.cut.dead.is_set():
            _, rest = await asyncio.wait({*rest, killed}, return_when=asyncio.FIRST_COMPLETED)
            rest.discard(killed)
        for task in (*rest, killed):
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(
                outcome, (CopperError, Dead, asyncio.CancelledError)
            ):
                raise outcome
        await asyncio.gather(killed, return_exceptions=True)
        for host in self.hosts:
            host.fail, host.lose = set(), set()

    # rules

    @rule(many=st.lists(ops, min_size=1, max_size=5))
    def do(self, many: list[Op]) -> None:
        async def work() -> None:
            await self.together(many)
            await self.settle()

        self.run(work())

    @rule(
        many=st.lists(ops, min_size=1, max_size=4),
        after=st.integers(1, 40),
        again=st.integers(0, 25),
    )
    def crash(self, many: list[Op], after: int, again: int) -> None:
        """The controller is killed after so many calls to store and hosts, and perhaps the next one at its start."""

        async def work() -> None:
            self.left = after
            await self.together(many)
            await self.bury()
            await self.start(again)
            self.left = 0
            if self.cut.dead.is_set():
                await self.bury()
                await self.start()
            await self.settle()

        self.run(work())

    @rule(seconds=st.sampled_from([0.01, 0.03, 0.06]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.promises = {
            ticket: promise
            for ticket, promise in self.promises.items()
            if promise.expires > self.now
        }

        async def work() -> None:
            assert self.world is not None
            core = self.world.core
            await until(lambda: not any(core.tickets.is_over(one) for one in core.book.tickets()))
            await self.settle()

        self.run(work())

    @precondition(lambda self: sum(host.silent for host in self.hosts) == 0)
    @rule(number=st.integers(0, 2))
    def a_host_goes_silent(self, number: int) -> None:
        self.hosts[number].silent = True
        self.run(self.settle())

    @precondition(lambda self: any(host.silent for host in self.hosts))
    @rule()
    def all_answer(self) -> None:
        for host in self.hosts:
            host.silent = False
        self.run(self.settle())

    # what holds

    async def settle(self) -> None:
        """Waits until nothing is under way, and checks all that must hold then."""
        assert self.world is not None
        core = self.world.core

        def quiet() -> bool:
            return not core.busy() and core.tickets.waiting == 0 and not unlike(core, self.hosts)

        try:
            await until(quiet, 10)
        except TimeoutError:
            raise AssertionError(
                f"does not settle: {core.busy()} {core.tickets.waiting} {unlike(core, self.hosts)}"
            ) from None
        check_sums(core, self.hosts)
        check_tickets(core)
        check_addresses(core)
        check_in_force(core, self.hosts)
        rows = {vm.name: vm.state for vm in core.book.vms() if vm.state in LIVE}
        assert self.vms.keys() <= rows.keys(), f"lost: {self.vms.keys() - rows.keys()}"
        granted = {one.id for one in core.book.tickets() if one.status == "granted"}
        assert self.promises.keys() <= granted, f"lost: {self.promises.keys() - granted}"

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            for host in self.hosts:
                host.silent = False
            self.run(self._end())
        finally:
            tickets.since_boot = self.real_clock  # type: ignore[attr-defined]
            self.loop.close()

    async def _end(self) -> None:
        """When all has been ended, all is free: everything was released, and once."""
        assert self.world is not None
        try:
            await self.settle()
            for name in CLUSTERS:
                await self.world.core.kill(name)
            self.vms.clear()
            self.promises.clear()
            await self.settle()
            check_free(self.world.core, self.hosts)
        finally:
            await self.bury()


Story.TestCase.settings = settings(
    max_examples=3000 if SOAK else 250,
    stateful_step_count=60 if SOAK else 30,
    deadline=None,
    derandomize=not SOAK,
    suppress_health_check=list(HealthCheck),
)
TestTickets = pytest.mark.timeout(0 if SOAK else 900)(Story.TestCase)
