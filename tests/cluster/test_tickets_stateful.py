"""Whatever users, hosts and time do, and wherever the controller is killed: what is promised is there, once, and fits.

Hypothesis makes up the story; COPPER_SOAK=1 makes it tell many more, each of them longer.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import inspect
import os
import random
import selectors
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from copper.controller import tickets
from copper.controller.capacity import Sum
from copper.controller.rows import HELD, LIVE, user_key
from copper.model.api import HostFacts, Limits, NewCluster, ThawOrder, Vm, VmEnded, VmStatus
from copper.model.errors import CopperError
from copper.model.networks import Attachment, Lease, NewNetwork
from copper.model.users import Quota, User
from copper.store.contract import Store
from copper.store.memory import MemoryStore
from tests.cluster.cuts import Cut, Dead
from tests.cluster.fakes import FakeHost, World, until

SOAK = bool(os.environ.get("COPPER_SOAK"))
MIB = 1 << 20
EXPIRES_S = 0.05
USERS = {"ann": Quota(), "bob": Quota(vms=5), "cat": Quota(cpus=10, memory_mib=400)}
CLUSTERS = {
    "a": ("ann", "near", Limits(vms=7)),
    "b": ("bob", "spread", Limits(cpus=8)),
    "c": ("cat", "pack", Limits()),
    "d": ("cat", "near", Limits()),
}
# the pools are short: three virtual clusters quarrel about the first
NETWORKS = {
    "pub": ["198.51.100.1-198.51.100.7"],
    "six": ["203.0.113.1-203.0.113.3", "2001:db8::/64"],
}
ATTACHED = {
    "a": [Attachment(name="pub")],
    "b": [Attachment(name="pub"), Attachment(name="six", master_only=True)],
    "c": [Attachment(name="pub", master_only=True), Attachment(name="six")],
}
FAULTS = ["freeze", "prepare", "thaw", "pause", "unpause", "suspend", "resume"]


class Host(FakeHost):
    """Remembers who was made on it: no name is given to two."""

    def __init__(self, name: str, room: int, cpus: int, own_mib: int, made: set[str]) -> None:
        super().__init__(room, name, cpus, fetches=True)
        self.own = own_mib * MIB
        self.networks = ["pub"] if name == "h3" else ["pub", "six"]
        self.made = made

    async def thaw(self, order: ThawOrder) -> VmStatus:
        status = await super().thaw(order)
        name = order.identity.name
        if order.identity.vmid == 0:  # a boot begins anew
            self.made -= {one for one in self.made if one.startswith(f"{order.identity.cluster}-")}
        assert name not in self.made, f"{name} is made twice"
        self.made.add(name)
        return status


class Loop(asyncio.SelectorEventLoop):
    """Nobody waits: when nothing is to be done, it is the time of what comes next. So each story goes as before."""

    def __init__(self) -> None:
        self.now = 0.0
        chosen = selectors.DefaultSelector()
        select = chosen.select

        def at_once(timeout: float | None = None) -> Any:
            assert timeout is not None, "nothing will ever happen again"
            self.now += max(timeout, 0)
            return select(0)

        chosen.select = at_once  # type: ignore[method-assign]
        super().__init__(chosen)

    def time(self) -> float:
        return self.now


class Paced:
    """A store or host whose calls take turns of the loop, as chance has it, and are counted."""

    def __init__(self, to: object, seed: int, passed: Callable[[], None]) -> None:
        self._to, self._chance, self._passed = to, random.Random(seed), passed

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._to, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **named: Any) -> Any:
            await self._turns()
            answer = await found(*args, **named)
            await self._turns()
            self._passed()
            return answer

        return call

    async def _turns(self) -> None:
        for _ in range(self._chance.choice((0, 0, 1, 2, 5))):
            await asyncio.sleep(0)


@dataclasses.dataclass
class Promise:
    """A ticket that was acknowledged."""

    holder: str
    expires: float


Op = tuple[str, int, int]
OFTEN = {
    "ask": 3,
    "wait": 1,
    "use": 3,
    "fork": 3,
    "boot": 2,
    "release": 1,
    "kill-some": 2,
    "kill-all": 1,
    "die": 1,
    "fault": 2,
    "suspend": 1,
    "resume": 2,
    "pause": 1,
    "unpause": 2,
}
OPS = [verb for verb, times in OFTEN.items() for _ in range(times)]
ops = st.tuples(st.sampled_from(OPS), st.integers(0, 7), st.integers(0, 7))


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
        self.vms: dict[
            str, int
        ] = {}  # that were acknowledged and nobody has begun to end; the how-manieth
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
        for name, quota in USERS.items():
            user = User(name=name, role="user", quota=quota, created=0)
            await self.world.book.commit(put={user_key(name): user})
        for name, pool in NETWORKS.items():
            await self.world.core.networks.create(NewNetwork(name=name, pool=pool))
        for name, (owner, placement, limits) in CLUSTERS.items():
            new = NewCluster(
                name=name,
                image="micro",
                limits=limits,
                placement=placement,  # type: ignore[arg-type]
                networks=ATTACHED.get(name, []),
            )
            await self.world.core.create(owner, new)
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
        with self.noted():
            self.check_sums()
            self.check_addresses()
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
            return not core.busy() and core.tickets.waiting == 0 and not self.unlike()

        try:
            await until(quiet, 10)
        except TimeoutError:
            raise AssertionError(
                f"does not settle: {core.busy()} {core.tickets.waiting} {self.unlike()}"
            ) from None
        self.check_sums()
        self.check_addresses()
        self.check_in_force()
        rows = {vm.name: vm.state for vm in core.book.vms() if vm.state in LIVE}
        assert self.vms.keys() <= rows.keys(), f"lost: {self.vms.keys() - rows.keys()}"
        held = {(vm.cluster, vm.vmid) for vm in core.book.vms() if vm.state in LIVE}
        used = {vm.ticket for vm in core.book.vms() if vm.state != "dead"}
        for one in core.book.tickets():
            granted_to = (one.cluster, one.holder) if one.status == "granted" else None
            assert granted_to in held or one.id in used, f"nobody's: {one}"
        granted = {one.id for one in core.book.tickets() if one.status == "granted"}
        assert self.promises.keys() <= granted, f"lost: {self.promises.keys() - granted}"

    def unlike(self) -> list[str]:
        """What hosts that answer have and what is written down, where that is not the same."""
        assert self.world is not None
        found = []
        for host in self.hosts:
            if host.silent:
                continue
            rows = [vm for vm in self.world.book.vms() if vm.host == host.name]
            runs = {vm.name for vm in rows if vm.state in ("running", "paused")}
            rests = {vm.name for vm in rows if vm.state == "suspended"}
            stored = {name for vms in host.stored.values() for name in vms}
            begun = {vm.name for vm in rows if vm.state in ("starting", "ending")}
            if begun or runs != host.running.keys() or rests != stored:
                found.append(f"{host.name}: {begun} {runs ^ host.running.keys()} {rests ^ stored}")
        return found

    def check_sums(self) -> None:
        """Never more than there is, by the rows themselves; and the sums that are kept are theirs."""
        assert self.world is not None
        core = self.world.core
        sums: dict[tuple[str, str], Sum] = {}

        def add(vms: int, cpus: int, reserved: int, *whose: tuple[str, str]) -> None:
            for one in whose:
                sums.setdefault(one, Sum()).add(vms, cpus, reserved)

        for vm in core.book.vms():
            if (
                vm.state in HELD and vm.cpus
            ):  # it is 0 in what goes without ever having had a process
                where = (("host", vm.host), ("owner", vm.owner), ("cluster", vm.cluster))
                add(1, vm.cpus, vm.reserved_bytes, *where)
        for ticket in core.book.tickets():
            if ticket.status == "granted":
                for host, vms in ticket.places.items():
                    where = (("host", host), ("owner", ticket.owner), ("cluster", ticket.cluster))
                    add(vms, vms * ticket.cpus // ticket.vms, vms * ticket.vm_bytes, *where)
        nothing = Sum()
        for host_ in self.hosts:
            facts: HostFacts = host_.facts()
            held = sums.get(("host", host_.name), nothing)
            assert held.cpus <= facts.cpus * facts.cpu_ratio, f"{host_.name}: {held}"
            assert held.reserved <= host_.room * 32 * MIB, f"{host_.name}: {held}"
            assert held.cpus == core.capacity.hosts[host_.name].cpus
        for owner, quota in USERS.items():
            _within(owner, sums.get(("owner", owner), nothing), quota)
        for cluster, (_, _, limits) in CLUSTERS.items():
            _within(cluster, sums.get(("cluster", cluster), nothing), limits)

    def check_addresses(self) -> None:
        """Each VM has what it is to have, leased to it alone; no pool has promised more than it has."""
        assert self.world is not None
        core = self.world.core
        leases = {one.address: one for one in core.book.all("leases", Lease)}
        has: list[str] = []
        taken: collections.Counter[str] = collections.Counter()
        for vm in core.book.vms():
            lives = vm.state != "dead"
            wanted = [
                one.name
                for one in ATTACHED.get(vm.cluster, [])
                if lives and (vm.vmid == 0 or not one.master_only)
            ]
            mine = [leases[address] for address in vm.public if address in leases]
            assert {one.network for one in mine} == set(wanted), f"{vm.name}: {mine}"
            assert [one.address for one in mine] == vm.public, f"{vm.name} has no lease"
            assert all(one.vm == vm.name for one in mine), f"{vm.name} has another's: {mine}"
            has += vm.public
            taken.update(wanted)
        assert sorted(has) == sorted(leases), f"twice or lost: {has} {leases}"
        for ticket in core.book.tickets():
            if ticket.status == "granted":
                taken.update({name: ticket.vms for name in ticket.networks})
        for name, count in taken.items():
            assert count <= core.leases.size(name), f"{name} gave out {count}"

    def check_in_force(self) -> None:
        """Hosts that answer bring to each VM its own addresses, and nobody brings one twice."""
        assert self.world is not None
        brought: list[str] = []
        for host in self.hosts:
            theirs = {name: one.addresses for name, one in host.exposed.items()}
            brought += [one.address for each in theirs.values() for one in each]
            if not host.silent:
                rows = {vm.name: vm for vm in self.world.book.vms() if vm.host == host.name}
                for name in host.running:
                    addresses = [one.address for one in theirs.get(name, [])]
                    assert addresses == rows[name].public, f"{name}: {addresses}"
        assert len(brought) == len(set(brought)), f"brought twice: {brought}"

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
            assert self.world.book.vms() == [] and self.world.book.tickets() == []
            capacity = self.world.core.capacity
            for sums in (capacity.hosts, capacity.owners, capacity.clusters):
                assert all(one == Sum() for one in sums.values()), sums
            for network in self.world.core.networks.all():
                assert network.left == network.size, network
            for host in self.hosts:
                assert not host.running and not host.stored and not host.exposed
        finally:
            await self.bury()


def _within(whose: str, held: Sum, most: Quota | Limits) -> None:
    assert most.vms is None or held.vms <= most.vms, f"{whose}: {held}"
    assert most.cpus is None or held.cpus <= most.cpus, f"{whose}: {held}"
    assert most.memory_mib is None or held.reserved <= most.memory_mib * MIB, f"{whose}: {held}"


Story.TestCase.settings = settings(
    max_examples=3000 if SOAK else 250,
    stateful_step_count=60 if SOAK else 30,
    deadline=None,
    derandomize=not SOAK,
    suppress_health_check=list(HealthCheck),
)
TestTickets = pytest.mark.timeout(0 if SOAK else 900)(Story.TestCase)
