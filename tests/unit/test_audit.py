"""The audit finds nothing in a world that agrees with itself, and whatever one thing is broken, that one thing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from copper.controller.audit import agreed, audit, compare, findings
from copper.controller.audit_view import View
from copper.controller.book import Book
from copper.controller.capacity import Capacity
from copper.controller.hosts import Hosts, HttpHost
from copper.controller.rows import HELD, ClusterRow, cluster_key, ticket_key, vm_key
from copper.model.api import HostReport, Vm, VmEnded, VmState
from copper.model.audit import Difference, Found, Inventory, Thing
from copper.model.errors import CopperError
from copper.model.operations import Operation
from copper.model.tickets import Ticket
from copper.store.memory import MemoryStore
from copper.wire.http import Peer
from tests.unit.test_accounts import cluster, facts, vm

MIB = 1 << 20
OF_A_VM: tuple[Thing, ...] = (
    "process", "record", "overlay", "memory-file", "cgroup", "socket", "tap",
)  # fmt: skip
OF_A_SUSPENDED: tuple[Thing, ...] = ("record", "overlay")


STATES: list[VmState] = ["running", "paused", "dead", "starting"]
ALIVE: tuple[VmState, ...] = ("starting", "running", "paused")


@dataclasses.dataclass
class World:
    """What is written down, and what is on the hosts; made to agree."""

    clusters: dict[str, ClusterRow] = dataclasses.field(default_factory=dict)
    vms: dict[str, Vm] = dataclasses.field(default_factory=dict)
    tickets: dict[str, Ticket] = dataclasses.field(default_factory=dict)
    there: dict[str, dict[str, VmState]] = dataclasses.field(default_factory=dict)
    found: dict[str, list[Found]] = dataclasses.field(default_factory=dict)
    cpus: int = 1000
    busy: frozenset[str] = frozenset()

    def view(self) -> View:
        all_facts = {
            name: facts(name).model_copy(update={"cpus": self.cpus}) for name in self.there
        }
        return View(self.clusters, self.vms, self.tickets, all_facts, self.busy)

    def inventories(self) -> list[Inventory]:
        return [
            Inventory(host=host, vms=vms, found=self.found[host])
            for host, vms in self.there.items()
        ]

    def compare(self) -> list[Difference]:
        return compare(self.view(), self.inventories())

    def add_host(self, name: str) -> None:
        self.there[name] = {}
        self.found[name] = [
            Found(thing="image", name="micro"),
            Found(thing="process", name="99", vm="(standby)"),
            Found(thing="memory-file", name="t", vm="(template)"),
        ]

    def add_things(self, one: Vm, things: tuple[Thing, ...] = OF_A_VM) -> None:
        self.found[one.host] += [
            Found(thing=thing, name=f"{thing} of {one.name}", vm=one.name) for thing in things
        ]

    def add_vm(self, one: Vm) -> None:
        self.vms[one.name] = one
        row = self.clusters[one.cluster]
        self.clusters[one.cluster] = row.model_copy(
            update={"next_vmid": max(row.next_vmid, one.vmid + 1)}
        )
        if one.state in HELD:
            self.there[one.host][one.name] = one.state
            self.add_things(one)
            self.add_once(one.host, "namespace", one.cluster)
            self.add_once(one.host, "resolver", one.cluster)
        elif one.state == "suspended":
            self.add_things(one, OF_A_SUSPENDED)
            self.add_once(one.host, "suspended", one.cluster)

    def add_once(self, host: str, thing: Thing, of: str) -> None:
        found = Found(thing=thing, name=f"{thing} of {of}", vm=of)
        if found not in self.found[host]:
            self.found[host].append(found)

    def forget_things(self, host: str, name: str) -> list[Found]:
        """What a VM had on a host."""
        gone = [one for one in self.found[host] if one.vm == name and one.thing in OF_A_VM]
        self.found[host] = [one for one in self.found[host] if one not in gone]
        return gone

    def of(self, *states: VmState) -> list[str]:
        return [name for name, one in self.vms.items() if one.state in states]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """One to three hosts, virtual clusters with VMs in every state, tickets used and unused."""
    world = World()
    hosts = ["a", "b", "c"][: draw(st.integers(1, 3))]
    for host in hosts:
        world.add_host(host)
    for name in draw(st.lists(st.sampled_from(["demo", "demo-1", "x"]), unique=True)):
        world.clusters[name] = cluster(name)
        states: list[VmState] = draw(st.lists(st.sampled_from(STATES), max_size=4))
        if draw(st.booleans()):
            states = ["suspended"] * len(states)
        for vmid, of_vm in enumerate(states):
            host = draw(st.sampled_from(hosts))
            one = vm(f"{name}-{vmid}", state=of_vm, host=host)
            # each has a ticket of its own, or shares one with the next
            ticket = f"of {name} {vmid // 2 if draw(st.booleans()) else 'own ' + str(vmid)}"
            world.add_vm(one.model_copy(update={"ticket": ticket}))
        made: dict[str, list[Vm]] = {}
        for one in world.vms.values():
            if one.cluster == name and one.state != "dead":
                made.setdefault(one.ticket, []).append(one)
        for ticket, vms in made.items():
            extra = draw(st.integers(0, 2))  # those that have ended since
            world.tickets[ticket] = new_ticket(ticket, name, "used", len(vms) + extra)
        if draw(st.booleans()):
            world.tickets[name] = new_ticket(name, name, "granted", 2)
    return world


def new_ticket(name: str, cluster: str, status: str, vms: int) -> Ticket:
    return Ticket.model_validate(
        {
            "id": name,
            "cluster": cluster,
            "holder": 0,
            "cpus": 2 * vms,
            "vms": vms,
            "mincpuspervm": 1,
            "status": status,
            "places": {"a": vms},
            "vm_bytes": MIB,
        }
    )


@given(worlds())
def test_a_world_that_agrees_has_no_differences(world: World) -> None:
    assert world.compare() == []


Named = tuple[str, str, str, bool]  # thing, name, host, whether it is mended
Break = Callable[[World, st.DataObject], Named]


def pick(data: st.DataObject, names: list[str]) -> str:
    assume(names)
    return data.draw(st.sampled_from(sorted(names)))


def alone(world: World, name: str) -> None:
    """Only worlds in which this VM's ticket has other live VMs, so that one thing is broken and not two."""
    mine = world.vms[name]
    others = [one for one in world.vms.values() if one.ticket == mine.ticket and one is not mine]
    assume(any(one.state != "dead" for one in others))


def vm_vanished(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running", "paused"))
    host = world.vms[name].host
    del world.there[host][name]
    world.forget_things(host, name)
    return "vm", name, host, True


def vm_vanished_but_its_process(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running", "paused"))
    del world.there[world.vms[name].host][name]
    return "vm", name, world.vms[name].host, False


def start_never_ended(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("starting"))
    host = world.vms[name].host
    del world.there[host][name]
    world.forget_things(host, name)
    return "vm", name, host, False


def row_vanished(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of(*ALIVE))
    alone(world, name)
    return "vm", name, world.vms.pop(name).host, True


def vm_of_the_future(world: World, data: st.DataObject) -> Named:
    of = pick(data, list(world.clusters))
    one = vm(f"{of}-{world.clusters[of].next_vmid}")
    world.there["a"][one.name] = "running"
    world.add_things(one)
    return "vm", one.name, "a", False


def vm_of_an_unknown_cluster(world: World, data: st.DataObject) -> Named:
    one = vm("gone-7")
    world.there["a"][one.name] = "running"
    world.add_things(one)
    return "vm", one.name, "a", True


def vm_twice(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running", "paused"))
    host = pick(data, [host for host in world.there if host != world.vms[name].host])
    world.there[host][name] = "running"
    world.add_things(world.vms[name].model_copy(update={"host": host}))
    return "vm", name, host, False


def vm_elsewhere(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running", "paused"))
    host = pick(data, [host for host in world.there if host != world.vms[name].host])
    old = world.vms[name].host
    world.found[host] += world.forget_things(old, name)
    world.there[host][name] = world.there[old].pop(name)
    return "vm", name, host, False


def vm_not_paused(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("paused"))
    world.there[world.vms[name].host][name] = "running"
    return "vm", name, world.vms[name].host, False


def dead_vm_runs(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("dead"))
    world.there[world.vms[name].host][name] = "running"
    world.add_things(world.vms[name])
    return "vm", name, world.vms[name].host, False


def suspended_vm_runs(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("suspended"))
    world.there[world.vms[name].host][name] = "running"
    world.add_things(world.vms[name], ("process", "cgroup"))
    return "vm", name, world.vms[name].host, False


def never_ended(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running"))
    world.vms[name] = world.vms[name].model_copy(update={"state": "ending"})
    return "vm", name, world.vms[name].host, False


def host_is_silent(world: World, data: st.DataObject) -> Named:
    host = pick(data, [host for host in world.there if world.there[host]])
    assume(len(world.there) > 1)  # images are still somewhere
    del world.there[host]
    return "vm", host, host, False


def left(thing: Thing) -> Break:
    def leave(world: World, data: st.DataObject) -> Named:
        dead = world.of("dead")
        name = data.draw(st.sampled_from(["", "gone", "gone-1", *dead]))
        host = world.vms[name].host if name in dead else pick(data, list(world.there))
        world.found[host].append(Found(thing=thing, name="left", vm=name))
        return thing, "left", host, thing != "process" or name not in dead

    return leave


def left_by_the_future(world: World, data: st.DataObject) -> Named:
    of = pick(data, list(world.clusters))
    name = f"{of}-{world.clusters[of].next_vmid}"
    assume(name not in world.clusters)
    world.found["a"].append(Found(thing="overlay", name="left", vm=name))
    return "overlay", "left", "a", False


def namespace_of_a_cluster_without_vms(world: World, data: st.DataObject) -> Named:
    host = pick(data, list(world.there))
    busy = {one.cluster for one in world.vms.values() if one.host == host and one.state != "dead"}
    of = pick(data, [name for name in world.clusters if name not in busy])
    world.found[host].append(Found(thing="namespace", name="space", vm=of))
    return "namespace", "space", host, True


def nobody_answers_names(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running", "paused"))
    of, host = world.vms[name].cluster, world.vms[name].host
    world.found[host] = [
        one.model_copy(update={"name": of, "detail": "nobody is there"})
        if (one.thing, one.vm) == ("resolver", of)
        else one
        for one in world.found[host]
    ]
    return "resolver", of, host, True


def tap_of_a_suspended_vm(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("suspended"))
    world.found[world.vms[name].host].append(Found(thing="tap", name="left", vm=name))
    return "tap", "left", world.vms[name].host, False


def off_the_wire(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running", "paused"))
    host = world.vms[name].host
    one = next(one for one in world.found[host] if (one.thing, one.vm) == ("tap", name))
    world.found[host].remove(one)
    world.found[host].append(one.model_copy(update={"detail": "its tap is down"}))
    return "tap", one.name, host, True


def overlay_where_the_vm_was(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running"))
    host = pick(data, [host for host in world.there if host != world.vms[name].host])
    world.found[host].append(Found(thing="overlay", name="left", vm=name))
    return "overlay", "left", host, True


def lacks(thing: Thing) -> Break:
    def lose(world: World, data: st.DataObject) -> Named:
        name = pick(data, world.of("running", "paused"))
        host = world.vms[name].host
        world.found[host] = [
            one for one in world.found[host] if (one.thing, one.vm) != (thing, name)
        ]
        return thing, name, host, False

    return lose


def two_processes(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running", "paused"))
    world.found[world.vms[name].host].append(Found(thing="process", name="2nd", vm=name))
    return "process", name, world.vms[name].host, False


def not_stored(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("suspended"))
    of, host = world.vms[name].cluster, world.vms[name].host
    world.found[host] = [
        one for one in world.found[host] if (one.thing, one.vm) != ("suspended", of)
    ]
    return "suspended", of, host, False


def stored_for_nobody(world: World, data: st.DataObject) -> Named:
    host = pick(data, list(world.there))
    world.found[host].append(Found(thing="suspended", name="old", vm="gone"))
    return "suspended", "old", host, True


def stored_and_running(world: World, data: st.DataObject) -> Named:
    name = pick(data, world.of("running"))
    of, host = world.vms[name].cluster, world.vms[name].host
    world.found[host].append(Found(thing="suspended", name="old", vm=of))
    return "suspended", "old", host, False


def places_do_not_add_up(world: World, data: st.DataObject) -> Named:
    name = pick(data, list(world.tickets))
    one = world.tickets[name]
    world.tickets[name] = one.model_copy(update={"places": {"a": one.vms + 1}})
    return "ticket", name, "", False


def used_for_nobody(world: World, data: st.DataObject) -> Named:
    of = pick(data, list(world.clusters))
    world.tickets["t"] = new_ticket("t", of, "used", 3)
    return "ticket", "t", "", False


def ticket_vanished(world: World, data: st.DataObject) -> Named:
    name = pick(data, [t for t, one in world.tickets.items() if one.status == "used"])
    del world.tickets[name]
    return "ticket", name, "", False


def ticket_of_no_cluster(world: World, data: st.DataObject) -> Named:
    world.tickets["t"] = new_ticket("t", "gone", "granted", 3)
    return "ticket", "t", "", False


def granted_but_used(world: World, data: st.DataObject) -> Named:
    name = pick(data, [t for t, one in world.tickets.items() if one.status == "used"])
    world.tickets[name] = world.tickets[name].model_copy(update={"status": "granted"})
    return "ticket", name, "", False


def more_processors_than_there_are(world: World, data: st.DataObject) -> Named:
    held = sum(one.host == "a" and one.state in HELD for one in world.vms.values())
    promised = [t for t in world.tickets.values() if t.status == "granted"]
    held += sum(one.cpus for one in promised)
    of = pick(data, list(world.clusters))
    room = 4 * world.cpus
    world.tickets["t"] = new_ticket("t", of, "granted", (room - held) // 2 + 1)
    return "ticket", "processors", "a", False


def more_memory_than_there_is(world: World, data: st.DataObject) -> Named:
    of = pick(data, list(world.clusters))
    one = new_ticket("t", of, "granted", 1)
    world.tickets["t"] = one.model_copy(update={"vm_bytes": 1 << 40})
    return "ticket", "memory", "a", False


def image_vanished(world: World, data: st.DataObject) -> Named:
    assume(world.clusters)
    for host, found in world.found.items():
        world.found[host] = [one for one in found if one.thing != "image"]
    return "image", "micro", "", False


BREAKS: list[Break] = [
    vm_vanished, vm_vanished_but_its_process, start_never_ended, row_vanished, vm_of_the_future,
    vm_of_an_unknown_cluster, vm_twice, vm_elsewhere, vm_not_paused, dead_vm_runs,
    suspended_vm_runs, never_ended, host_is_silent, left_by_the_future,
    nobody_answers_names, namespace_of_a_cluster_without_vms, tap_of_a_suspended_vm, overlay_where_the_vm_was,
    off_the_wire, two_processes, not_stored, stored_for_nobody, stored_and_running, places_do_not_add_up,
    used_for_nobody, ticket_vanished, ticket_of_no_cluster, granted_but_used,
    more_processors_than_there_are, more_memory_than_there_is, image_vanished,
    lacks("process"), lacks("record"),
    *(left(thing) for thing in OF_A_VM),
]  # fmt: skip


# some worlds have nothing that can be broken so
SOME = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


@pytest.mark.parametrize("broken", BREAKS, ids=lambda b: b.__qualname__.partition(".")[0])
@SOME
@given(data=st.data())
def test_what_is_broken_is_named_and_nothing_else(broken: Break, data: st.DataObject) -> None:
    world = data.draw(worlds())
    thing, name, host, mended = broken(world, data)
    found = world.compare()
    assert [(one.thing, one.name, one.host) for one in found] == [(thing, name, host)], found
    assert bool(found[0].mend) == mended, found
    assert found[0].says and "\n" not in found[0].says


@SOME
@given(data=st.data(), broken=st.sampled_from([vm_vanished, row_vanished, vm_not_paused]))
def test_what_is_being_worked_on_is_no_difference(data: st.DataObject, broken: Break) -> None:
    world = data.draw(worlds())
    _, name, _, _ = broken(world, data)
    world.busy = frozenset([world.view().cluster_of(name)])
    assert world.compare() == []


# two looks, and mending, with hosts that answer


class Answers(HttpHost):
    """A host that answers what a test says, and remembers what it was told."""

    def __init__(self, inventories: Iterator[Inventory | CopperError]) -> None:
        super().__init__(Peer.__new__(Peer))
        self._inventories = inventories
        self.told: list[tuple[str, ...]] = []

    async def inventory(self) -> Inventory:
        answer = next(self._inventories)
        if isinstance(answer, CopperError):
            raise answer
        return answer

    async def mend(self, thing: str, name: str) -> None:
        if name == "stuck":
            raise CopperError("it is in use")
        self.told.append((thing, name))

    async def end(self, name: str) -> None:
        self.told.append((name,))


class Audited:
    """A book with one virtual cluster, and one host whose answers are given one by one."""

    def __init__(self) -> None:
        self.book = Book(MemoryStore())
        self.capacity = Capacity()
        self.hosts = Hosts(self.capacity)
        self.gone: list[VmEnded] = []

    async def start(self) -> None:
        await self.book.open()
        row = cluster("demo").model_copy(update={"next_vmid": 5})
        own = new_ticket("t", "demo", "used", 1)
        master = vm("demo-0").model_copy(update={"ticket": "t"})
        rows = {cluster_key("demo"): row, ticket_key("t"): own, vm_key("demo-0"): master}
        await self.book.commit(put=rows)
        self.capacity.report(HostReport(facts=facts(), vms=[]))

    async def ended(self, ended: VmEnded) -> None:
        self.gone.append(ended)

    async def look(
        self, *answers: Inventory | CopperError, repair: bool = False, busy: tuple[str, ...] = ()
    ) -> tuple[list[Difference], list[tuple[str, ...]]]:
        host = Answers(iter(answers))
        self.hosts.add("a", host)
        found = await audit(
            self.book, self.hosts, self.ended, busy=lambda: busy, repair=repair, gap_s=0
        )
        return found, host.told


@pytest.fixture
async def audited() -> Audited:
    made = Audited()
    await made.start()
    return made


def there(*more: Found, vms: tuple[str, ...] = ("demo-0",)) -> Inventory:
    own = [
        Found(thing=thing, name=name, vm=name) for name in vms for thing in ("process", "record")
    ]
    image = Found(thing="image", name="micro")
    states: dict[str, VmState] = dict.fromkeys(vms, "running")
    return Inventory(host="a", vms=states, found=[image, *own, *more])


async def test_a_vm_off_its_wire_is_put_back(audited: Audited) -> None:
    wrong = Found(thing="tap", name="n/v0", vm="demo-0", detail="its tap is down")
    found, told = await audited.look(there(wrong), there(wrong), repair=True)
    assert told == [("tap", "n/v0")]
    assert [(one.says, one.mended) for one in found] == [
        ("VM demo-0 is off its wire: its tap is down", True)
    ]


async def test_what_agrees_is_looked_at_once(audited: Audited) -> None:
    assert await audited.look(there()) == ([], [])


async def test_what_is_gone_at_the_second_look_is_no_difference(audited: Audited) -> None:
    passing = there(Found(thing="overlay", name="o"), vms=())
    assert await audited.look(passing, there()) == ([], [])
    other = there(Found(thing="overlay", name="p"))
    assert (await audited.look(there(Found(thing="overlay", name="o")), other))[0] == []


async def test_a_row_that_changed_between_the_looks_is_no_difference(audited: Audited) -> None:
    before, empty = View.of(audited.book, ()), [there(vms=())]
    first = findings(before, empty)
    same = agreed(before, first, before, first)
    assert [one.difference.name for one in same] == ["demo-0"]
    row = audited.book.vm("demo-0")  # ended, and booted again
    await audited.book.commit(put={vm_key("demo-0"): row.model_copy(update={"created": 9.0})})
    after = View.of(audited.book, ())
    assert agreed(before, first, after, findings(after, empty)) == []


async def test_a_cluster_at_work_is_left_alone(audited: Audited) -> None:
    empty = there(vms=())
    assert (await audited.look(empty, empty, busy=("demo",)))[0] == []
    running = Operation(
        id="1", kind="kill", cluster="demo", owner="ann", state="running", created=0
    )
    await audited.book.commit(put={"operations/1": running})
    assert (await audited.look(empty, empty))[0] == []
    done = running.model_copy(update={"state": "done"})
    await audited.book.commit(put={"operations/1": done})
    assert len((await audited.look(empty, empty))[0]) == 1


async def test_nothing_is_mended_unless_asked(audited: Audited) -> None:
    broken = there(Found(thing="overlay", name="o"), vms=("gone-1",))
    found, told = await audited.look(broken, broken)
    assert {(one.thing, one.name, one.mended) for one in found} == {
        ("vm", "gone-1", False),
        ("vm", "demo-0", False),
        ("overlay", "o", False),
    }
    assert (told, audited.gone) == ([], [])


async def test_what_is_safe_is_mended_and_nothing_else(audited: Audited) -> None:
    broken = there(
        Found(thing="overlay", name="o"),
        Found(thing="tap", name="stuck"),
        Found(thing="overlay", name="precious", vm="demo-9"),
        vms=("demo-3", "demo-7"),
    )
    found, told = await audited.look(broken, broken, repair=True)
    assert {one.name: one.mended for one in found} == {
        "demo-0": True,
        "demo-3": True,  # its number was given out, and its row is gone
        "demo-7": False,  # this state does not know of it yet
        "o": True,
        "stuck": False,
        "precious": False,
    }
    assert sorted(told) == [("demo-3",), ("overlay", "o")]
    assert [one.vm for one in audited.gone] == ["demo-0"]
    assert next(one for one in found if one.name == "stuck").says.endswith("it is in use")


async def test_a_vm_that_became_somebodys_is_not_ended(audited: Audited) -> None:
    def answers() -> Iterator[Inventory]:
        yield there(vms=("demo-0", "demo-3"))
        audited.book.submit(put={vm_key("demo-3"): vm("demo-3")})
        yield there(vms=("demo-0", "demo-3"))

    host = Answers(answers())
    audited.hosts.add("a", host)
    found = await audit(audited.book, audited.hosts, audited.ended, repair=True, gap_s=0)
    assert [(one.name, one.mended) for one in found] == [("demo-3", False)]
    assert host.told == []


async def test_a_host_that_does_not_answer_is_named_and_nothing_is_ended(audited: Audited) -> None:
    silent = CopperError("no route")
    found, told = await audited.look(silent, silent, repair=True)
    assert [(one.name, one.mended) for one in found] == [("a", False)]
    assert (told, audited.gone) == ([], [])


def test_a_hundred_vms_on_each_of_a_hundred_hosts_are_compared_at_once() -> None:
    world = World()
    for number in range(100):
        world.add_host(f"h{number}")
        world.clusters[f"c{number}"] = cluster(f"c{number}")
        for vmid in range(100):
            world.add_vm(vm(f"c{number}-{vmid}", host=f"h{number}"))
    began = time.perf_counter()
    assert findings(world.view(), world.inventories()) == []
    assert time.perf_counter() - began < 5  # seconds; it takes a tenth of one
