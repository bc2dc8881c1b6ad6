"""The fan-out's bench with few clones and one round: that it measures all that it names, and leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from copper.bench import fanout_kinds as kinds
from copper.bench.fanout import main
from copper.model.settings import Settings, from_environment
from copper.wire import trace
from tests.bench.test_bench_fork import left_behind
from tests.vm.machinery import images_folder

ROWS = kinds.Rows((1, 3), many=3, pairs=2)


@pytest.fixture
def settings(accel: str) -> Settings:
    """Shares the build cache of all tests, and the bench's templates from an earlier run."""
    return from_environment({"COPPER_STATE_DIR": str(images_folder()), "COPPER_ACCEL": accel})


@pytest.mark.timeout(1200)  # the first one builds the image
def test_a_run_with_few_clones_measures_everything(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(rounds=1, sizes=[1, 3], many=3, pairs=2, out=tmp_path, settings=settings) == 0
    printed = capfd.readouterr().out
    written = json.loads((tmp_path / "bench-fanout.json").read_text())
    assert (written["missing"], written["ended"]) == ([], "")
    counts = {series["kind"]: series["n"] for series in written["series"]}
    assert list(counts) == [kind.name for kind in ROWS.kinds]
    assert counts.pop(ROWS.identity_many) == 3
    assert set(counts.values()) == {1}
    figures = {series["kind"]: series["p50"] for series in written["series"]}
    assert all(figure > 0 for kind, figure in figures.items())
    assert figures[kinds.OWN] <= figures[kinds.ANON]
    for verdict in written["targets"]:
        assert verdict["reached"] is not None
        assert verdict["what"] in printed
    # every clone's way is in the file for Perfetto, from its turn to its answer
    events = trace.read_whole(tmp_path / "fanout.json")
    answered = {event.line for event in events if event.name == "answer"}
    assert len(answered) == 3
    for clone in answered:
        steps = {event.name for event in events if event.line == clone}
        assert {"tap", "cont", "identity", "link"} <= steps
        assert "fork" in steps or {"standby", "state", "lay"} <= steps
    assert (tmp_path / "fanout.png").stat().st_size > 0
    assert left_behind(settings) == []
