"""The bench of a warm clone with one round: that it measures all that it names, and leaves nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from copper.bench import warm, works
from copper.bench.series import Results
from copper.bench.warm import main
from copper.model.errors import BadInput, CopperError
from copper.model.settings import Settings, from_environment
from tests.bench.test_bench_fork import left_behind
from tests.vm.machinery import images_folder

SOAK = bool(os.environ.get("COPPER_SOAK"))


@pytest.fixture
def settings(accel: str) -> Settings:
    """Shares the build cache of all tests, and the bench's templates from an earlier run."""
    return from_environment({"COPPER_STATE_DIR": str(images_folder()), "COPPER_ACCEL": accel})


@pytest.mark.skipif(not SOAK, reason="it boots a large guest twice: scripts/soak has it")
@pytest.mark.timeout(1200)  # the first one builds the image
def test_a_run_with_one_round_measures_everything_and_leaves_nothing(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(rounds=1, turns=1, out=tmp_path, settings=settings) == 0
    written = json.loads((tmp_path / "bench-warm.json").read_text())
    assert (written["missing"], written["ended"]) == ([], "")
    samples = {series["kind"]: series["samples"] for series in written["series"]}
    assert list(samples) == [kind.name for kind in warm.KINDS]
    assert all(len(found) == 1 and found[0] > 0 for found in samples.values())
    ratios = {one["what"]: one["ratio"] for one in written["ratios"]}
    assert list(ratios) == list(warm.COMPARED)
    printed = capfd.readouterr().out
    for verdict in written["targets"]:
        assert verdict["what"] in printed
        assert verdict["figure"] in ratios.values()
    assert left_behind(settings, f"bench-{warm.RECIPE}-512") == []


def test_each_work_does_the_same_again_and_says_how_long_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(works, "FILE", tmp_path / "works.db")
    assert {name for name, _ in warm.WORKS.values()} == set(works.WORKS)
    for work in works.WORKS.values():
        assert works.took_ms(work) > 0
        assert works.took_ms(work) > 0


def test_a_guest_without_python_is_said_to_have_none(settings: Settings, tmp_path: Path) -> None:
    assert main(rounds=1, image="micro", out=tmp_path, settings=settings) == 1
    written = json.loads((tmp_path / "bench-warm.json").read_text())
    (missing,) = written["missing"]
    assert missing["reason"].startswith(
        "python3 -c import sqlite3 in a guest of micro: No such file"
    )
    assert {verdict["reached"] for verdict in written["targets"]} == {None}
    assert left_behind(settings) == []


def test_what_makes_no_sense_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--rounds 0"):
        main(rounds=0, out=tmp_path, settings=settings)
    with pytest.raises(CopperError, match="no-such-recipe"):
        main(image="no-such-recipe", out=tmp_path, settings=settings)
    assert not (tmp_path / "bench-warm.json").exists()


def test_a_work_that_is_slower_than_it_may_be_is_said_to_be() -> None:
    results = Results(bench="", asked={}, kinds=warm.KINDS, goals=warm.GOALS, machine={})
    good = {kind.name: [100.0] for kind in warm.KINDS}
    for work in warm.WORKS:
        results.samples = {**good, warm.of(work, warm.CLONE): [105.1]}
        (late,) = [verdict for verdict in results.verdicts if not verdict.reached]
        assert late.what.startswith(work)
    results.samples = good
    assert all(verdict.reached for verdict in results.verdicts)
