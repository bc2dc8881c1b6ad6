"""The book: seen at once, durable when a write returns, taken back when it cannot be written."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copper.controller.book import Book
from copper.controller.rows import ClusterRow, cluster_key, ticket_key, vm_key
from copper.model.api import Vm
from copper.model.errors import CopperError, NoRoom, NotFound
from copper.model.machine import Record, Shape
from copper.model.tickets import Ticket
from copper.store.contract import Changed
from copper.store.memory import MemoryStore
from copper.store.sqlite import SqliteStore

SHAPE = Shape(memory_mib=64, cpus=1, disk_bytes=1 << 20)


class SlowStore(MemoryStore):
    """Writes when it is let; refuses when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.refuses: CopperError | None = None
        self.writing = 0
        self.most_writing = 0

    async def commit(self, **what: Any) -> int:
        self.writing += 1
        self.most_writing = max(self.most_writing, self.writing)
        try:
            await self.may_write.wait()
            if self.refuses is not None:
                raise self.refuses
            return await super().commit(**what)
        finally:
            self.writing -= 1


def cluster(name: str = "a", **fields: Any) -> ClusterRow:
    return ClusterRow(name=name, image="micro", shape=SHAPE, created=0, **fields)


def vm(name: str = "a-0", **fields: Any) -> Vm:
    of, _, vmid = name.rpartition("-")
    rest = {"ip": "10.0.0.1", "generation": 0, "parent": None, "host": "h", "created": 0}
    return Vm.model_validate(
        {"name": name, "cluster": of, "vmid": int(vmid), "state": "running", **rest, **fields}
    )


def ticket(name: str = "t", **fields: Any) -> Ticket:
    rest = {"cluster": "a", "holder": 0, "cpus": 1, "vms": 1, "mincpuspervm": 1, **fields}
    return Ticket.model_validate({"id": name, "status": "granted", **rest})


def content(book: Book) -> dict[str, list[Record]]:
    return {
        "clusters": list(book.clusters()),
        "vms": list(book.vms()),
        "tickets": list(book.tickets()),
    }


A = cluster_key("a")


async def test_a_record_is_seen_before_it_is_durable_and_durable_on_return() -> None:
    store = SlowStore()
    book = Book(store)
    store.may_write.clear()
    writing = asyncio.create_task(book.commit(expect={A: None}, put={A: cluster()}))
    await asyncio.sleep(0)
    assert book.cluster("a") == cluster()
    assert await store.get(A) is None
    assert not writing.done()
    store.may_write.set()
    await writing
    assert await store.get(A) is not None


async def test_what_the_store_refuses_is_taken_back() -> None:
    store = SlowStore()
    book = Book(store)
    await book.commit(put={A: cluster(), vm_key("a-0"): vm(), ticket_key("t"): ticket()})
    seen: list[tuple[str, Record | None, Record | None]] = []
    before = content(book)
    book.on_change(lambda *change: seen.append(change))
    seen.clear()
    store.refuses = NoRoom("the disk is full")
    with pytest.raises(NoRoom):
        await book.commit(
            put={A: cluster(next_vmid=1), vm_key("a-1"): vm("a-1")},
            delete=[vm_key("a-0"), ticket_key("t")],
        )
    assert content(book) == before
    assert book.vms("a") == [vm()] and book.tickets("a") == [ticket()]
    # whoever keeps sums is told of both ways
    assert len(seen) == 8
    assert {key: after for key, _, after in seen[4:]} == {key: old for key, old, _ in seen[:4]}
    store.refuses = None
    await book.commit(expect={A: cluster()}, put={A: cluster(next_vmid=1)})
    assert book.cluster("a").next_vmid == 1


async def test_a_comparison_is_with_the_very_record_that_was_read() -> None:
    book = Book(MemoryStore())
    await book.commit(expect={A: None}, put={A: cluster()})
    with pytest.raises(Changed, match="clusters/a"):
        await book.commit(expect={A: None}, put={A: cluster()})
    with pytest.raises(Changed):
        await book.commit(expect={A: cluster(next_vmid=9)}, delete=[A])
    await book.commit(expect={A: cluster()}, delete=[A])
    with pytest.raises(Changed):
        await book.commit(expect={A: cluster()}, put={A: cluster()})
    with pytest.raises(NotFound):
        book.cluster("a")


async def test_a_comparison_that_fails_changes_nothing_at_all() -> None:
    book = Book(MemoryStore())
    await book.commit(put={A: cluster()})
    before = await book.store.revision()
    with pytest.raises(Changed):
        await book.commit(
            expect={A: cluster(), cluster_key("b"): cluster("b")},
            put={A: cluster(next_vmid=5), vm_key("a-0"): vm()},
        )
    assert book.cluster("a").next_vmid == 0 and book.vms() == []
    assert await book.store.revision() == before


async def test_of_two_who_read_the_same_one_writes() -> None:
    book = Book(SlowStore())
    await book.commit(put={A: cluster()})
    both = [book.commit(expect={A: cluster()}, put={A: cluster(next_vmid=n)}) for n in range(1, 3)]
    results = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(isinstance(result, Changed) for result in results) == [False, True]
    assert book.cluster("a").next_vmid == 1


async def test_writes_of_one_key_wait_for_each_other_and_those_of_others_do_not() -> None:
    store = SlowStore()
    book = Book(store)
    store.may_write.clear()
    writes = [asyncio.create_task(book.commit(put={A: cluster(next_vmid=n)})) for n in range(1, 4)]
    others = [
        asyncio.create_task(book.commit(put={cluster_key(f"b{n}"): cluster(f"b{n}")}))
        for n in range(5)
    ]
    async with asyncio.timeout(60):
        while store.writing < 1 + len(others):  # noqa: ASYNC110
            await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert store.writing == 1 + len(others)
    assert book.cluster("a").next_vmid == 1  # what waits is not seen
    store.may_write.set()
    await asyncio.gather(*writes, *others)
    entry = await store.get(A)
    assert entry is not None
    assert entry.value["next_vmid"] == book.cluster("a").next_vmid == 3


async def test_a_write_that_follows_one_that_failed_stands_on_what_was_before() -> None:
    store = SlowStore()
    book = Book(store)
    await book.commit(put={A: cluster()})
    store.may_write.clear()
    store.refuses = NoRoom("the disk is full")
    first = asyncio.create_task(book.commit(put={A: cluster(next_vmid=1)}))
    await asyncio.sleep(0)
    second = asyncio.create_task(
        book.commit(expect={A: cluster(next_vmid=1)}, put={A: cluster(next_vmid=2)})
    )
    third = asyncio.create_task(book.commit(expect={A: cluster()}, put={A: cluster(next_vmid=3)}))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(store.may_write.set)
    with pytest.raises(NoRoom):
        await first
    store.refuses = None
    with pytest.raises(Changed):
        await second
    await third
    assert book.cluster("a").next_vmid == 3


async def test_a_caller_that_goes_away_does_not_undo_what_was_decided() -> None:
    store = SlowStore()
    book = Book(store)
    store.may_write.clear()
    writing = asyncio.create_task(book.commit(put={A: cluster()}))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert book.cluster("a")
    store.may_write.set()
    await book.settled(A)
    assert await store.get(A) is not None
    assert (await reopened(store)).cluster("a") == cluster()


async def test_a_caller_that_goes_away_while_it_waits_has_decided_nothing() -> None:
    store = SlowStore()
    book = Book(store)
    store.may_write.clear()
    first = asyncio.create_task(book.commit(put={A: cluster(next_vmid=1)}))
    await asyncio.sleep(0)
    second = asyncio.create_task(book.commit(put={A: cluster(next_vmid=2)}))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    store.may_write.set()
    await first
    await asyncio.sleep(0.01)
    assert book.cluster("a").next_vmid == 1


async def test_what_is_submitted_must_be_settled() -> None:
    store = SlowStore()
    book = Book(store)
    store.may_write.clear()
    first = book.submit(put={A: cluster()})
    with pytest.raises(Changed, match="being written"):
        book.submit(put={A: cluster()})
    with pytest.raises(Changed, match="being written"):
        book.submit(expect={A: cluster()}, put={vm_key("a-0"): vm()})
    settled = asyncio.create_task(book.settled(A, cluster_key("b")))
    await asyncio.sleep(0)
    assert not settled.done()
    store.may_write.set()
    await settled
    assert first.done()
    await book.submit(expect={A: cluster()}, put={vm_key("a-0"): vm()})


async def test_settled_waits_also_for_a_write_that_fails() -> None:
    store = SlowStore()
    book = Book(store)
    store.refuses = NoRoom("the disk is full")
    failing = book.submit(put={A: cluster()})
    await book.settled(A)
    assert book.clusters() == []
    with pytest.raises(NoRoom):
        await failing


async def test_a_key_that_is_put_and_deleted_is_put() -> None:
    book = Book(MemoryStore())
    await book.commit(put={A: cluster()})
    await book.commit(put={A: cluster(next_vmid=4)}, delete=[A])
    assert book.cluster("a").next_vmid == 4
    assert (await reopened(book.store)).cluster("a").next_vmid == 4


async def test_deleting_what_is_not_there_is_no_error() -> None:
    book = Book(MemoryStore())
    await book.commit(delete=[A, vm_key("a-0"), ticket_key("t")])
    assert content(book) == {"clusters": [], "vms": [], "tickets": []}


async def test_a_later_watcher_is_told_what_is_there_already() -> None:
    book = Book(MemoryStore())
    await book.commit(put={A: cluster(), vm_key("a-0"): vm()})
    seen: dict[str, Record | None] = {}

    def note(key: str, before: Record | None, after: Record | None) -> None:
        seen[key] = after

    book.on_change(note)
    assert seen == {A: cluster(), vm_key("a-0"): vm()}
    await book.commit(put={vm_key("a-1"): vm("a-1")}, delete=[A])
    assert seen == {A: None, vm_key("a-0"): vm(), vm_key("a-1"): vm("a-1")}


async def test_rows_are_found_by_their_cluster_in_the_order_of_vmids() -> None:
    book = Book(MemoryStore())
    names = ["a-10", "a-2", "b-0", "a-0", "aa-1"]
    await book.commit(put={vm_key(name): vm(name) for name in names})
    await book.commit(put={ticket_key("t"): ticket(), ticket_key("u"): ticket("u", cluster="b")})
    assert [one.name for one in book.vms("a")] == ["a-0", "a-2", "a-10"]
    assert [one.name for one in book.vms()] == ["a-0", "a-2", "a-10", "aa-1", "b-0"]
    assert [one.id for one in book.tickets("b")] == ["u"]
    assert [one.id for one in book.tickets()] == ["t", "u"]
    await book.commit(delete=[vm_key("a-2"), ticket_key("t")])
    assert [one.name for one in book.vms("a")] == ["a-0", "a-10"]
    assert book.tickets("a") == [] and book.vms("nothing") == []
    with pytest.raises(NotFound, match="a-2"):
        book.vm("a-2")
    with pytest.raises(NotFound, match="ticket 't'"):
        book.ticket("t")


async def reopened(store: Any) -> Book:
    book = Book(store)
    await book.open()
    return book


# two books over one store, and against a plain dictionary

keys = [A, cluster_key("b"), vm_key("a-0"), vm_key("a-1"), vm_key("b-0")]
keys += [ticket_key("t"), ticket_key("u")]
changes = st.lists(
    st.dictionaries(st.sampled_from(keys), st.integers(-1, 3), min_size=1, max_size=4), max_size=12
)


def record_of(key: str, value: int) -> Record:
    table, _, name = key.partition("/")
    if table == "clusters":
        return cluster(name, next_vmid=value)
    if table == "vms":
        return vm(name, generation=value)
    return ticket(name, vms=value + 1, cluster="ab"[value % 2])


async def _write_all(book: Book, many: list[dict[str, int]], at_once: bool, seed: int) -> None:
    chance = random.Random(seed)

    async def one(change: dict[str, int]) -> None:
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        put = {key: record_of(key, value) for key, value in change.items() if value >= 0}
        await book.commit(put=put, delete=[key for key, value in change.items() if value < 0])

    if at_once:
        await asyncio.gather(*(one(change) for change in many))
        return
    for change in many:
        await one(change)


@settings(max_examples=150, deadline=None)
@given(changes, st.booleans(), st.integers(0, 100))
def test_a_book_that_is_opened_again_is_the_same(
    many: list[dict[str, int]], at_once: bool, seed: int
) -> None:
    async def run() -> None:
        book = Book(MemoryStore())
        await _write_all(book, many, at_once, seed)
        again = await reopened(book.store)
        assert content(again) == content(book)
        for name in ("a", "b"):
            assert again.vms(name) == book.vms(name)
            assert sorted(again.tickets(name), key=lambda one: one.id) == sorted(
                book.tickets(name), key=lambda one: one.id
            )
        # and it can be written by the new one, with what that one read
        for row in again.clusters():
            await again.commit(expect={cluster_key(row.name): row}, delete=[cluster_key(row.name)])
        if not at_once:
            expected: dict[str, int] = {}
            for change in many:
                expected |= change
            there = {key: record_of(key, value) for key, value in expected.items() if value >= 0}
            assert {vm_key(one.name): one for one in book.vms()} == {
                key: record for key, record in there.items() if key.startswith("vms/")
            }

    asyncio.run(run())


async def test_what_a_second_controller_wrote_is_not_overwritten() -> None:
    store = MemoryStore()
    book = Book(store)
    await book.commit(put={A: cluster()})
    other = await reopened(store)
    await other.commit(expect={A: cluster()}, put={A: cluster(next_vmid=7)})
    with pytest.raises(Changed):
        await book.commit(expect={A: cluster()}, put={A: cluster(next_vmid=8)})
    assert (await reopened(store)).cluster("a").next_vmid == 7


async def test_sqlite_gives_back_what_was_written(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db")
    await store.open()
    book = Book(store)
    await asyncio.gather(
        *(book.commit(put={vm_key(f"a-{n}"): vm(f"a-{n}", lineage=[0])}) for n in range(50))
    )
    await book.commit(put={A: cluster(next_vmid=50)}, delete=[vm_key("a-7")])
    before = content(book)
    await store.close()
    store = SqliteStore(tmp_path / "state.db")
    await store.open()
    assert content(await reopened(store)) == before
    await store.close()
