"""The contract of every store, held against each of them."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copper.model.errors import BadInput, CopperError
from copper.store.contract import Change, Changed, Store
from tests.unit.stores import KINDS, opened, take, what_is_there


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path) as made:
        yield made


async def test_what_was_put_is_got_with_the_revision_that_wrote_it(store: Store) -> None:
    first = await store.commit(put={"a": {"n": 1}})
    second = await store.commit(put={"b": {"n": 2}})
    assert second > first
    entry = await store.get("a")
    assert entry is not None
    assert (entry.value, entry.revision) == ({"n": 1}, first)
    assert await store.get("c") is None


async def test_list_takes_a_prefix_and_sorts_by_key(store: Store) -> None:
    await store.commit(put={"vms/b": {}, "vms/a": {}, "vmsx": {}, "clusters/a": {}})
    assert [entry.key for entry in await store.list("vms/")] == ["vms/a", "vms/b"]
    assert await store.list("none/") == []


async def test_a_commit_compares_before_it_writes_anything(store: Store) -> None:
    revision = await store.commit(put={"a": {"n": 1}})
    await store.commit(expect={"a": revision}, put={"a": {"n": 2}})
    with pytest.raises(Changed):
        await store.commit(expect={"a": revision}, put={"a": {"n": 3}, "b": {}}, delete=["a"])
    entry = await store.get("a")
    assert entry is not None and entry.value == {"n": 2}
    assert await store.get("b") is None


async def test_zero_expects_absence(store: Store) -> None:
    await store.commit(expect={"a": 0}, put={"a": {}})
    with pytest.raises(Changed):
        await store.commit(expect={"a": 0}, put={"a": {}})
    await store.commit(delete=["a", "never there"])
    await store.commit(expect={"a": 0}, put={"a": {}})


async def test_what_was_got_is_a_copy(store: Store) -> None:
    value = {"list": [1]}
    await store.commit(put={"a": value})
    value["list"].append(2)
    entry = await store.get("a")
    assert entry is not None and entry.value == {"list": [1]}


async def test_a_key_that_is_put_and_deleted_is_put_and_changes_once(store: Store) -> None:
    await store.commit(put={"a": {"n": 1}})
    watch = store.watch("")
    revision = await store.commit(put={"a": {"n": 2}}, delete=["a", "a", "b"])
    assert await take(watch, 1) == [Change("a", {"n": 2}, revision, 0)]


async def test_every_commit_has_a_revision_of_its_own(store: Store) -> None:
    assert await store.revision() == 0
    commits = [store.commit(put={f"k{n}": {}}) for n in range(20)]
    assert sorted(await asyncio.gather(*commits, store.commit())) == list(range(1, 22))
    assert await store.revision() == 21


async def test_commits_take_effect_in_the_order_of_their_calls(store: Store) -> None:
    tasks = [asyncio.create_task(store.commit(put={"a": {"n": n}})) for n in range(50)]
    revisions = await asyncio.gather(*tasks)
    assert revisions == sorted(revisions)
    entry = await store.get("a")
    assert entry is not None and entry.value == {"n": 49}


async def test_a_commit_that_fails_disturbs_none_of_those_beside_it(store: Store) -> None:
    first = await store.commit(put={"a": {"n": 0}})
    commits = [store.commit(expect={"a": first}, put={"a": {"n": n}, f"b{n}": {}}) for n in (1, 2)]
    others = [store.commit(put={f"c{n}": {}}) for n in range(5)]
    won, lost, *rest = await asyncio.gather(*commits, *others, return_exceptions=True)
    assert won == first + 1
    assert isinstance(lost, Changed)
    assert rest == [first + 2 + n for n in range(5)]
    entries = await store.list("")
    assert [entry.key for entry in entries] == ["a", "b1", *(f"c{n}" for n in range(5))]


async def test_who_goes_away_does_not_undo_its_commit(store: Store) -> None:
    task = asyncio.create_task(store.commit(put={"a": {}}))
    await asyncio.sleep(0)
    task.cancel()
    await store.commit(put={"b": {}})
    assert [entry.key for entry in await store.list("")] == ["a", "b"]


async def test_a_key_that_is_no_text_fails_alone(store: Store) -> None:
    good = asyncio.create_task(store.commit(put={"a": {}}))
    with pytest.raises(BadInput):
        await store.commit(put={"\ud800": {}})
    assert await good == 1


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    for kind in KINDS:
        async with opened(kind, tmp_path) as store:
            last = asyncio.create_task(store.commit(put={"a": {}}))
            await asyncio.sleep(0)
            await store.close()
            assert await last == 1  # what was asked for before is written
        for call in (
            store.commit(),
            store.get("a"),
            store.list(""),
            store.keep(1),
            store.revision(),
        ):
            with pytest.raises(CopperError, match="not open"):
                await call


@dataclasses.dataclass(frozen=True)
class Asked:
    """A commit of the property below: what it expects of keys is what they have, plus an error."""

    expect: dict[str, int]
    put: dict[str, int]
    delete: list[str]


keys = st.sampled_from(["a", "a/1", "a/2", "b", "b/ä"])
errors = st.sampled_from([0, 0, 0, 1, -1])
some_commits = st.builds(
    Asked,
    st.dictionaries(keys, errors, max_size=2),
    st.dictionaries(keys, st.integers(0, 9), max_size=3),
    st.lists(keys, max_size=2),
)


class Model:
    """What a store must come to, one commit after the other."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[int, int]] = {}
        self.revision = 0
        self.changes: list[Change] = []

    def revision_of(self, key: str) -> int:
        return self.rows[key][1] if key in self.rows else 0

    def commit(self, expect: dict[str, int], asked: Asked) -> int | None:
        """The revision, or None for Changed."""
        if any(self.revision_of(key) != wanted for key, wanted in expect.items()):
            return None
        self.revision += 1
        gone = [key for key in dict.fromkeys(asked.delete) if key in self.rows]
        gone = [key for key in gone if key not in asked.put]
        values = {**dict.fromkeys(gone), **asked.put}
        for number, (key, value) in enumerate(values.items()):
            body = None if value is None else {"n": value}
            self.changes.append(Change(key, body, self.revision, number))
            self.rows.pop(key, None)
            if value is not None:
                self.rows[key] = (value, self.revision)
        return self.revision


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(batches=st.lists(st.lists(some_commits, min_size=1, max_size=8), max_size=5))
def test_concurrent_commits_come_to_what_one_after_the_other_would(
    kind: str, batches: list[list[Asked]]
) -> None:
    async def run(folder: Path) -> None:
        model = Model()
        async with opened(kind, folder) as store:
            for batch in batches:
                expects = [
                    {key: model.revision_of(key) + error for key, error in asked.expect.items()}
                    for asked in batch
                ]
                results = await asyncio.gather(
                    *(
                        store.commit(
                            expect=expect,
                            put={key: {"n": value} for key, value in asked.put.items()},
                            delete=asked.delete,
                        )
                        for expect, asked in zip(expects, batch, strict=True)
                    ),
                    return_exceptions=True,
                )
                wanted = [model.commit(*one) for one in zip(expects, batch, strict=True)]
                assert [None if isinstance(r, Changed) else r for r in results] == wanted
            rows = [(key, {"n": n}, revision) for key, (n, revision) in sorted(model.rows.items())]
            assert await what_is_there(store) == rows
            assert await store.revision() == model.revision
            changes = model.changes
            assert await take(store.watch("", after=0), len(changes)) == changes

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))
