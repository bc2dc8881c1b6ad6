"""The bench of repurposing with few clones and turns: that it measures all that it names, and leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from copper.bench import repurpose
from copper.bench.repurpose import Rows, main
from copper.bench.series import Results
from copper.model.errors import BadInput
from copper.model.settings import Settings, from_environment
from tests.bench.test_bench_fork import left_behind
from tests.vm.machinery import images_folder


@pytest.fixture
def settings(accel: str) -> Settings:
    """Shares the build cache of all tests, and the bench's templates from an earlier run."""
    return from_environment({"COPPER_STATE_DIR": str(images_folder()), "COPPER_ACCEL": accel})


@pytest.mark.timeout(300)  # the first one builds the image
def test_a_run_with_few_clones_measures_everything_and_leaves_nothing(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(turns=4, clones=3, out=tmp_path, settings=settings) == 0
    written = json.loads((tmp_path / "bench-repurpose.json").read_text())
    assert (written["missing"], written["ended"]) == ([], "")
    counts = {series["kind"]: series["n"] for series in written["series"]}
    rows = Rows(3)
    assert list(counts) == [kind.name for kind in rows.kinds]
    assert (counts[rows.whole], counts[rows.first], counts[rows.last]) == (4, 2, 2)
    samples = {series["kind"]: series["samples"] for series in written["series"]}
    assert samples[repurpose.LEFT] == [0, 0, 0, 0]
    printed = capfd.readouterr().out
    assert all(verdict["what"] in printed for verdict in written["targets"])
    assert left_behind(settings) == []


def test_what_makes_no_sense_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--turns 1"):
        main(turns=1, out=tmp_path, settings=settings)


def test_each_limit_is_held_by_the_figure_that_the_issue_names() -> None:
    rows = Rows(100)
    results = Results(bench="", asked={}, kinds=rows.kinds, goals=rows.goals, machine={})
    good: dict[str, list[float]] = {kind.name: [1.0] for kind in rows.kinds}
    good[repurpose.LEFT] = [0.0]
    for kind, bad in (
        (rows.whole, 8000.1),
        (rows.last, 1.26),
        (repurpose.LEFT, 1),
        (repurpose.FILES, 5),
    ):
        results.samples = {**good, kind: [bad]}
        assert [verdict.reached for verdict in results.verdicts].count(False) == 1
    results.samples = good
    assert all(verdict.reached for verdict in results.verdicts)
