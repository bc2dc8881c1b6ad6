"""The benches of memory and of depth with few clones and one round: that they measure all that they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from copper.bench import depth, footprint
from copper.model.errors import BadInput
from copper.model.settings import Settings, from_environment
from tests.bench.test_bench_fork import left_behind
from tests.vm.machinery import images_folder


@pytest.fixture
def settings(accel: str) -> Settings:
    """Shares the build cache of all tests, and the bench's templates from an earlier run."""
    return from_environment({"COPPER_STATE_DIR": str(images_folder()), "COPPER_ACCEL": accel})


def written(path: Path) -> dict[str, Any]:
    """What a bench wrote, of which nothing may be missing."""
    found: dict[str, Any] = json.loads(path.read_text())
    assert (found["missing"], found["ended"]) == ([], "")
    return found


@pytest.mark.timeout(400)  # the first one builds the image
def test_memory_is_measured_in_all_states(settings: Settings, tmp_path: Path) -> None:
    assert footprint.main(rounds=1, clones=3, wait_s=0.1, out=tmp_path, settings=settings) == 0
    found = {one["kind"]: one["p50"] for one in written(tmp_path / "bench-memory.json")["series"]}
    # of so few clones what the host lost is chance, and so is whether it lost anything
    chance = {footprint.of(state, "not accounted for") for state in footprint.STATES}
    wanted = {kind.name for kind in footprint.kinds(0.1)}
    assert wanted - chance <= found.keys() <= wanted
    for state in footprint.STATES:
        assert found[footprint.of(state, "guest pages of its own")] > 0
        assert found[footprint.of(state, "own, as Copper says")] > 0
    worked = found[footprint.of(footprint.WORKED, "guest pages of its own")]
    assert worked > found[footprint.of(footprint.IDLE, "guest pages of its own")] + 8
    assert left_behind(settings) == []


@pytest.mark.timeout(400)
def test_each_generation_is_measured(settings: Settings, tmp_path: Path) -> None:
    assert depth.main(rounds=1, deepest=3, out=tmp_path, settings=settings) == 0
    counts = {one["kind"]: one["n"] for one in written(tmp_path / "bench-depth.json")["series"]}
    assert list(counts) == [kind.name for kind in depth.kinds(3)]
    assert set(counts.values()) == {1}
    assert left_behind(settings) == []


def test_what_makes_no_sense_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--rounds 0"):
        footprint.main(rounds=0, out=tmp_path, settings=settings)
    with pytest.raises(BadInput, match="--depth 0"):
        depth.main(deepest=0, out=tmp_path, settings=settings)
