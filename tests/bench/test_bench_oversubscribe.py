"""The demonstration of too many guests, with few: that they are paused in time, and that nobody loses a byte."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from copper.bench import oversubscribe
from copper.model.errors import BadInput
from copper.model.settings import Settings, from_environment
from tests.bench.test_bench_fork import left_behind
from tests.vm.machinery import images_folder

SOAK = bool(os.environ.get("COPPER_SOAK"))


@pytest.fixture
def settings(accel: str) -> Settings:
    """Shares the build cache of all tests, and the bench's templates from an earlier run."""
    return from_environment({"COPPER_STATE_DIR": str(images_folder()), "COPPER_ACCEL": accel})


@pytest.mark.skipif(
    not SOAK, reason="more than a minute of one guest's writing: scripts/soak has it"
)
@pytest.mark.timeout(400)  # the first one builds the image
def test_guests_that_come_to_use_more_than_there_is_are_paused(
    settings: Settings, tmp_path: Path
) -> None:
    options = {"clones": 4, "memory_mib": 128, "write_mib": 16, "watch_s": 45, "within_mib": 32}
    assert oversubscribe.main(**options, out=tmp_path, settings=settings) == 0
    written = json.loads((tmp_path / "bench-oversubscribe.json").read_text())
    assert (written["missing"], written["ended"]) == ([], "")
    found = {one["kind"]: one["p50"] for one in written["series"]}
    assert list(found) == [kind.name for kind in oversubscribe.KINDS]
    assert found[oversubscribe.UP] == 4
    assert found[oversubscribe.PAUSED] > 0
    assert found[oversubscribe.CHECKED] >= 4
    for kind in (oversubscribe.UNTOLD, oversubscribe.CHOSEN, oversubscribe.WRONG):
        assert found[kind] == 0
    assert left_behind(settings) == []


def test_files_in_memory_that_do_not_fit_are_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--write 65"):
        oversubscribe.main(memory_mib=128, write_mib=65, out=tmp_path, settings=settings)
