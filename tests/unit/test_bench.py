"""What the bench makes of its samples: medians, ratios, verdicts, the table and the JSON."""

from __future__ import annotations

import json

import pytest

from copper.bench import kinds
from copper.bench.fork import expected_s, main
from copper.bench.memory import Floor
from copper.bench.results import FORMAT, Results
from copper.bench.stats import Guest, Samples, number, summarize
from copper.bench.table import aligned, report, targets
from copper.bench.targets import verdicts
from copper.model.errors import BadInput

SMALL, MIDDLE, LARGE = (Guest("micro", size) for size in (256, 1024, 2048))
DEBIAN = Guest("debian-12", 512)
ANSWER, COLD = kinds.CLONE_ANSWER, kinds.COLD


def test_a_summary_is_made_of_values_that_were_measured() -> None:
    summary = summarize([float(value) for value in range(30, 0, -1)])
    assert (summary.n, summary.p50, summary.p95, summary.worst) == (30, 15.5, 29.0, 30.0)
    assert summarize([7.0]) == summarize([7.0])
    assert summarize([7.0]).p95 == 7.0
    assert summarize([1.0, 2.0]).p95 == 2.0


def test_there_is_no_summary_of_nothing() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarize([])


def test_a_ratio_needs_both_of_its_medians() -> None:
    samples = Samples()
    samples.add(SMALL, "-", COLD, 3000)
    assert samples.ratio(SMALL, ("-", COLD), ("idle", ANSWER)) is None
    samples.add(SMALL, "idle", ANSWER, 100)
    samples.add(SMALL, "idle", ANSWER, 200)
    samples.add(SMALL, "idle", ANSWER, 100)
    assert samples.ratio(SMALL, ("-", COLD), ("idle", ANSWER)) == 30
    assert samples.ratio(MIDDLE, ("-", COLD), ("idle", ANSWER)) is None


def test_a_guest_of_which_all_failed_is_still_a_guest_of_the_run() -> None:
    samples = Samples()
    samples.lacks(SMALL, "-", COLD, "no QEMU")
    samples.lacks(SMALL, "-", COLD, "no QEMU")
    assert samples.guests == [SMALL]
    assert [(lack.reason, lack.times) for lack in samples.missing] == [("no QEMU", 2)]


def a_run() -> Samples:
    """Everything just within its limit; pauses do not depend on size."""
    samples = Samples()
    for guest in (SMALL, MIDDLE, LARGE):
        samples.add(guest, "idle", kinds.PAUSE, 10)
        samples.add(guest, "idle", ANSWER, 150)
        samples.add(guest, "idle", kinds.CLONES_ANSWER, 1000)
        samples.add(guest, "-", COLD, 4500)
        samples.add(guest, "-", kinds.LOADVM, 1500)
        samples.add(guest, "idle", kinds.OWN_IDLE, 25, "MB")
        samples.add(guest, "idle", kinds.LAYER_IDLE, 2, "MB")
        samples.add(guest, "idle", kinds.LAYER_DEEP, 2, "MB")
    for what in ("pause", "thaw", "first answer"):
        samples.add(SMALL, "idle", kinds.of_generation(1, what), 100)
        samples.add(SMALL, "idle", kinds.of_generation(8, what), 125)
    samples.add(DEBIAN, "idle", ANSWER, 300)
    samples.add(DEBIAN, "idle", kinds.CLONES_ANSWER, 2000)
    samples.add(DEBIAN, "idle", kinds.BOOT, 1000)
    samples.add(DEBIAN, "-", COLD, 24_000)
    return samples


def test_limits_are_reached_at_their_very_value() -> None:
    found = verdicts(a_run())
    assert [verdict.what for verdict in found if verdict.reached is not True] == []
    assert len(found) == 15


@pytest.mark.parametrize(
    ("guest", "load", "kind", "value", "what"),
    [
        (LARGE, "idle", kinds.PAUSE, 10.1, "pause, p50"),
        (MIDDLE, "idle", ANSWER, 151, "call to first answer, p50"),
        (SMALL, "idle", kinds.CLONES_ANSWER, 1001, "8 clones answering, p50"),
        (DEBIAN, "idle", kinds.BOOT, 1001, "debian-12: boot from template, p50"),
        (SMALL, "-", COLD, 4499, "first answer, against cold boot"),
        (MIDDLE, "-", kinds.LOADVM, 1499, "first answer at 1 GiB, against -loadvm"),
        (LARGE, "idle", kinds.OWN_IDLE, 25.1, "own memory of an idle clone, p50"),
        (SMALL, "idle", kinds.LAYER_DEEP, 2.1, "an idle generation stores, p50"),
    ],
)
def test_the_worst_guest_decides(
    guest: Guest, load: str, kind: str, value: float, what: str
) -> None:
    samples = a_run()
    series = next(one for one in samples if (one.guest, one.load, one.kind) == (guest, load, kind))
    series.samples[:] = [value]
    (verdict,) = [one for one in verdicts(samples) if one.what == what]
    assert verdict.reached is False
    assert verdict.word == "not reached"
    assert guest.label in verdict.note


def test_a_pause_that_grows_with_the_memory_is_seen() -> None:
    samples = a_run()
    small = next(one for one in samples if (one.guest, one.kind) == (SMALL, kinds.PAUSE))
    small.samples[:] = [6.5]
    flat = next(one for one in verdicts(samples) if "2 GiB over" in one.what)
    assert flat.figure == pytest.approx(10 / 6.5)
    assert flat.reached is False


def test_what_was_not_measured_is_neither_reached_nor_not() -> None:
    found = verdicts(Samples())
    assert {verdict.reached for verdict in found} == {None}
    assert {verdict.word for verdict in found} == {"not measured"}
    assert "not measured" in targets(found)


def results_of(samples: Samples) -> Results:
    machine: dict[str, object] = {
        "qemu": "7.2.22",
        "accelerator": "tcg",
        "processors": 2,
        "processor": "a processor",
        "memory_mib": 4096,
        "kernel": "6.1",
    }
    return Results(
        runs=30,
        sizes=[256, 1024, 2048],
        recipes=["micro", "debian-12"],
        machine=machine,
        started=1.0,
        load_before=[0.5, 0.4, 0.3],
        samples=samples,
    )


def test_the_report_says_what_is_missing_and_puts_nothing_in_its_place() -> None:
    samples = Samples()
    samples.add(SMALL, "idle", ANSWER, 123.4)
    samples.lacks(SMALL, "-", kinds.LOADVM, "savevm: no medium")
    text = report(results_of(samples))
    assert "micro 256 MiB, peer: qemu -loadvm: 1 times: savevm: no medium" in text
    (row,) = [line for line in text.splitlines() if line.startswith(kinds.LOADVM)]
    assert row.split()[3:] == ["ms", "-", "-", "-", "-"]
    (ratio,) = [line for line in text.splitlines() if line.startswith("-loadvm / first answer")]
    assert ratio.split()[-1] == "-"


def test_fewer_runs_are_explained_below_the_table() -> None:
    samples = a_run()
    samples.explain_fewer(DEBIAN, "-", COLD, "each takes 24 s")
    assert "peer: cold boot: 1 runs: each takes 24 s" in report(results_of(samples))


def test_the_reports_lines_fit_a_wide_terminal() -> None:
    assert max(map(len, report(results_of(a_run())).splitlines())) <= 180


def test_a_machine_that_was_not_idle_is_told_of() -> None:
    results = results_of(a_run())
    assert "other programs ran" not in report(results)
    results.load_before = [1.1, 0.2, 0.1]
    assert "other programs ran" in report(results)


def test_columns_are_aligned() -> None:
    assert aligned([["a", "10", "x"], ["bcd", "2", "yy"]]) == "a    10   x\nbcd   2  yy"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.123, "0.12"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (123.4, "123"),
        (1e4, "10000"),
    ],
)
def test_numbers_have_the_digits_that_count(value: float | None, text: str) -> None:
    assert number(value) == text


def test_the_json_keeps_its_members() -> None:
    samples = a_run()
    samples.lacks(SMALL, "-", kinds.LOADVM, "why")
    written = json.loads(json.dumps(results_of(samples).as_json()))
    assert written["format"] == FORMAT == 1
    assert list(written) == [
        *("format", "bench", "started", "seconds", "runs", "rounds", "ended", "sizes", "recipes"),
        *("machine", "load_before", "load_after", "definitions", "series", "ratios", "missing"),
        "targets",
    ]
    guest = ["guest", "recipe", "memory_mib"]
    assert list(written["series"][0]) == [
        *(*guest, "load", "kind", "unit", "n", "p50", "p95", "worst", "fewer", "samples"),
    ]
    assert list(written["ratios"][0]) == [*guest, "what", "ratio"]
    assert list(written["missing"][0]) == [*guest, "load", "kind", "times", "reason"]
    assert list(written["targets"][0]) == [
        *("what", "figure", "unit", "limit", "at_least", "note", "reached"),
    ]


def test_every_kind_says_what_it_measures() -> None:
    every = [*kinds.KINDS, *kinds.generations()]
    assert len({kind.name for kind in every}) == len(every)
    assert all(kind.means for kind in every)


def test_the_floor_takes_longer_for_more() -> None:
    floor = Floor()
    try:
        assert 0 < floor.copy_ms(1 << 12) < floor.copy_ms(600 << 20)
    finally:
        floor.close()


def test_the_whole_run_is_expected_to_end_within_its_time() -> None:
    guests = [SMALL, MIDDLE, LARGE, DEBIAN]
    assert expected_s(guests, 30) <= 35 * 60
    assert expected_s([SMALL], 3) <= 3 * 60


def test_no_runs_are_refused() -> None:
    with pytest.raises(BadInput, match="--runs 0"):
        main(runs=0)
