"""What is reserved for a clone: it follows what clones of the image were seen to write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copper.controller.book import Book
from copper.controller.learning import (
    EXPECTED,
    LEAST,
    MARGIN,
    MIB,
    SURE,
    WINDOW,
    Learning,
    reservation,
    taught,
)
from copper.controller.rows import Learnt, cluster_key, vm_key
from copper.store.memory import MemoryStore
from tests.unit.accounts import cluster, report, use, vm

NOMINAL = 1 << 30
SAMPLES = st.integers(0, 1 << 40)


def learn(samples: list[int], before: Learnt | None = None) -> int:
    """What is reserved after these samples, one by one."""
    known = before
    for sample in samples:
        known = taught("micro", known, [sample])
    return reservation(known, NOMINAL)


def test_nothing_is_believed_before_eight_samples() -> None:
    assert reservation(None, NOMINAL) == EXPECTED
    assert learn([100 * MIB] * (SURE - 1)) == EXPECTED
    assert learn([100 * MIB] * SURE) == 125 * MIB


@given(st.lists(SAMPLES, max_size=200), st.integers(1 << 20, 1 << 40))
def test_it_is_never_below_the_least_nor_above_nominal(samples: list[int], nominal: int) -> None:
    reserved = reservation(taught("micro", None, samples), nominal)
    assert min(LEAST, nominal) <= reserved <= nominal


@given(st.lists(SAMPLES, max_size=200))
def test_samples_one_by_one_or_all_at_once_are_the_same(samples: list[int]) -> None:
    known = None
    for sample in samples:
        known = taught("micro", known, [sample])
    assert (known or taught("micro", None, [])) == taught("micro", None, samples)
    assert known is None or len(known.recent) <= WINDOW


@given(st.lists(st.integers(10 * MIB, 100 * MIB), min_size=WINDOW, max_size=3 * WINDOW))
def test_it_converges_to_a_high_quantile(samples: list[int]) -> None:
    """Nine of ten of the last clones fit into what is reserved, without the margin."""
    without_margin = learn(samples) / MARGIN
    last = samples[-WINDOW:]
    fit = sum(sample <= without_margin + 1 for sample in last)
    assert fit >= 0.88 * WINDOW
    assert without_margin <= sorted(last)[int(0.9 * WINDOW)] + 1


@given(st.lists(st.integers(0, 1 << 34), max_size=200), st.integers(10 * MIB, 500 * MIB))
def test_it_follows_a_changed_workload(earlier: list[int], level: int) -> None:
    assert learn(earlier + [level] * WINDOW) == pytest.approx(level * MARGIN, abs=1)


@given(
    st.lists(st.integers(10 * MIB, 20 * MIB), min_size=SURE, max_size=WINDOW),
    st.integers(0, WINDOW),
    st.sampled_from([0, 1 << 50]),
)
def test_one_outlier_does_not_spoil_it(samples: list[int], where: int, outlier: int) -> None:
    spoilt = [*samples[:where], outlier, *samples[where:]]
    assert min(samples) * MARGIN - 1 <= learn(spoilt) <= max(samples) * MARGIN + 1


async def open_book(store: MemoryStore) -> Book:
    book = Book(store)
    await book.open()
    return book


async def test_clones_are_measured_at_five_seconds_and_at_doubled_ages() -> None:
    book = await open_book(MemoryStore())
    learning = Learning(book)
    clone = vm("demo-1").model_copy(update={"parent": 0})
    rows = {cluster_key("demo"): cluster("demo"), vm_key("demo-0"): vm("demo-0")}
    await book.commit(put={**rows, vm_key("demo-1"): clone})
    seen = []
    for second in range(41):
        learning.see(report(use("demo-0"), use("demo-1")), second)
        await learning.write(now=True)
        known = book.find("learnt/micro", Learnt)
        seen.append(known.seen if known is not None else 0)
    assert [second for second in range(1, 41) if seen[second] > seen[second - 1]] == [5, 10, 20, 40]
    # another VM of the same name begins anew
    await book.commit(put={vm_key("demo-1"): clone.model_copy(update={"created": 9})})
    for second, samples in ((100, 4), (104, 4), (105, 5)):
        learning.see(report(use("demo-1")), second)
        await learning.write(now=True)
        assert (book.find("learnt/micro", Learnt) or pytest.fail()).seen == samples


async def test_what_was_learnt_survives_a_restart() -> None:
    store = MemoryStore()
    learning = Learning(await open_book(store))
    for _ in range(SURE):
        learning.sample("micro", 100 * MIB)
    assert learning.expected("micro", NOMINAL) == 125 * MIB
    assert learning.expected("other", NOMINAL) == EXPECTED
    await learning.write(now=True)
    again = Learning(await open_book(store))
    assert again.expected("micro", NOMINAL) == 125 * MIB
    assert again.expected("micro", 64 * MIB) == 64 * MIB
    again.sample("micro", 1)
    await again.write()  # within ten seconds of the start
    assert (await store.get("learnt/micro") or pytest.fail()).value["seen"] == SURE
