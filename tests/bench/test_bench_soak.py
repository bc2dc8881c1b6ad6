"""The soak with few machines and a moment: that all that it looks for is found right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from copper.bench import soak
from copper.bench.series import Results
from copper.model.settings import Settings, from_environment
from tests.bench.test_bench_fork import left_behind
from tests.vm.machinery import images_folder


@pytest.fixture
def settings(accel: str) -> Settings:
    """Shares the build cache of all tests, and the bench's templates from an earlier run."""
    return from_environment({"COPPER_STATE_DIR": str(images_folder()), "COPPER_ACCEL": accel})


@pytest.mark.timeout(600)  # the first one builds the image
def test_a_moment_of_everything_leaves_all_right(settings: Settings, tmp_path: Path) -> None:
    assert soak.main(minutes=0.3, vms=8, seed=5, out=tmp_path, settings=settings) == 0
    written = json.loads((tmp_path / "bench-soak.json").read_text())
    assert (written["missing"], written["ended"]) == ([], "")
    found = {one["kind"]: one["p50"] for one in written["series"]}
    assert list(found) == [kind.name for kind in soak.KINDS]
    assert found[soak.RIGHT] >= len(soak.CLUSTERS)
    assert found[soak.WRONG] == found[soak.FAILED] == found[soak.AMISS] == 0
    assert left_behind(settings) == []


def test_whatever_is_wrong_is_a_figure_that_is_not_reached() -> None:
    results = Results(bench="soak", asked={}, kinds=soak.KINDS, goals=soak.GOALS, machine={})
    good = {kind.name: [0.0] for kind in soak.KINDS}
    results.samples = good
    assert all(verdict.reached for verdict in results.verdicts)
    for kind, bad in ((soak.WRONG, 1), (soak.AMISS, 1), (soak.FAILED, 1), (soak.FILES, 9)):
        results.samples = {**good, kind: [bad]}
        assert [verdict.reached for verdict in results.verdicts].count(False) == 1
