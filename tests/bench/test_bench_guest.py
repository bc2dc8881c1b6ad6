"""The guests' bench with few clones and one round: that it measures all that it names, and leaves nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from copper.bench import guest_kinds as kinds
from copper.bench.guest import main
from copper.model.errors import BadInput, CopperError
from copper.model.settings import Settings, from_environment
from tests.bench.test_bench_fork import left_behind
from tests.vm.machinery import images_folder

SOAK = bool(os.environ.get("COPPER_SOAK"))
OF_BINDINGS = {kinds.BARE, *kinds.BINDINGS.values()}  # which the image micro has not


@pytest.fixture
def settings(accel: str) -> Settings:
    """Shares the build cache of all tests, and the bench's templates from an earlier run."""
    return from_environment({"COPPER_STATE_DIR": str(images_folder()), "COPPER_ACCEL": accel})


@pytest.mark.timeout(600)
def test_a_run_with_few_clones_measures_everything(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(rounds=1, clones=3, out=tmp_path, settings=settings) == 0
    printed = capfd.readouterr().out
    written = json.loads((tmp_path / "bench-guest.json").read_text())
    assert (written["missing"], written["ended"], written["clones"]) == ([], "", 3)
    there = [series["kind"] for series in written["series"]]
    assert there == [kind.name for kind in kinds.KINDS if kind.name not in OF_BINDINGS]
    for series in written["series"]:
        assert series["n"] == 1
        assert series["samples"][0] > 0 or series["kind"] == kinds.BEYOND
    figures = {series["kind"]: series["p50"] for series in written["series"]}
    assert figures[kinds.BARRIER] >= figures[kinds.BARRIER_CALLER]
    assert figures[kinds.JOIN_FREE] >= figures[kinds.JOIN]
    assert len(written["ratios"]) == 3
    for verdict in written["targets"]:
        assert (verdict["reached"] is None) == verdict["what"].startswith("bindings")
        assert verdict["what"] in printed
    assert left_behind(settings) == []


@pytest.mark.skipif(not SOAK, reason="one and a half minutes: scripts/soak has it")
@pytest.mark.timeout(1200)  # the first one builds the image
def test_what_the_bindings_add_is_measured_where_they_are(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(rounds=1, image="debian-12-dev", clones=1, out=tmp_path, settings=settings) == 0
    written = json.loads((tmp_path / "bench-guest.json").read_text())
    figures = {series["kind"]: series["p50"] for series in written["series"]}
    assert list(figures) == [kind.name for kind in kinds.KINDS]
    assert figures[kinds.BARE] > 0
    (verdict,) = (one for one in written["targets"] if one["what"].startswith("bindings"))
    assert verdict["figure"] == max(figures[kind] for kind in kinds.BINDINGS.values())
    assert verdict["what"] in capfd.readouterr().out
    assert left_behind(settings) == []


def test_what_makes_no_sense_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--rounds 0"):
        main(rounds=0, out=tmp_path, settings=settings)
    with pytest.raises(CopperError, match="no-such-recipe"):
        main(image="no-such-recipe", out=tmp_path, settings=settings)
    assert not (tmp_path / "bench-guest.json").exists()


def test_each_limit_is_held_by_the_figure_that_the_issue_names() -> None:
    samples = {kind.name: [1.0] for kind in kinds.KINDS}
    assert all(verdict.reached for verdict in kinds.verdicts(samples))
    limits = {
        kinds.BINDINGS["Java"]: 5,
        kinds.BEYOND: 10,
        kinds.BARRIER: 300,
        kinds.JOIN_FREE: 2000,
        kinds.MEMORY: 8,
    }
    for kind, limit in limits.items():
        (late,) = [v for v in kinds.verdicts({**samples, kind: [limit + 0.1]}) if not v.reached]
        assert late.limit == limit
    assert {verdict.word for verdict in kinds.verdicts({})} == {"not measured"}


def test_every_kind_says_what_it_measures() -> None:
    assert len({kind.name for kind in kinds.KINDS}) == len(kinds.KINDS)
    assert all(kind.means for kind in kinds.KINDS)
