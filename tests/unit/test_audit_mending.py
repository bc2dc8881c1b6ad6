"""The audit looks twice before it says anything, and mends what is safe when it is asked to: with hosts that answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from copper.controller.audit import agreed, audit, findings
from copper.controller.audit_view import View
from copper.controller.book import Book
from copper.controller.capacity import Capacity
from copper.controller.hosts import Hosts, HttpHost
from copper.controller.rows import cluster_key, ticket_key, vm_key
from copper.model.api import HostReport, VmEnded, VmState
from copper.model.audit import Difference, Found, Inventory
from copper.model.errors import CopperError
from copper.model.operations import Operation
from copper.store.memory import MemoryStore
from copper.wire.http import Peer
from tests.unit.accounts import cluster, facts, vm
from tests.unit.audit_worlds import new_ticket


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
