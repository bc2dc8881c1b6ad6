"""The controller's bench with small numbers: that it measures all that it names, and leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from copper.bench import controller_kinds as kinds
from copper.bench.controller import Options, main
from copper.model.errors import BadInput
from copper.model.settings import Settings, from_environment
from tests.bench.test_bench_fork import left_behind

TINY = Options(
    seconds=1,
    rounds=1,
    round_s=0.3,
    clients=8,
    per_second=40,
    hosts=20,
    clusters=4,
    each=50,
    times=20,
    vms=5,
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A state of its own, which has no images: all VMs are fake."""
    return from_environment({"COPPER_STATE_DIR": str(tmp_path / "state")})


@pytest.mark.timeout(600)
def test_a_tiny_run_measures_everything(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(out=tmp_path, settings=settings, options=TINY) == 0
    printed = capfd.readouterr().out
    written = json.loads((tmp_path / "bench-controller.json").read_text())
    assert (written["missing"], written["ended"]) == ([], "")
    assert [series["kind"] for series in written["series"]] == [kind.name for kind in kinds.KINDS]
    counted = {series["kind"]: series["n"] for series in written["series"]}
    assert counted[kinds.GRANTED] == counted[kinds.RELEASED] == 40
    assert counted[kinds.DECISION] == counted[kinds.GRANTED_LARGE] == 20
    lost = {kinds.LOST, kinds.TWICE}
    for series in written["series"]:
        wanted = 0 if series["kind"] in lost else 1e-9
        assert min(series["samples"]) >= wanted, series["kind"]
        assert max(series["samples"]) == 0 or series["kind"] not in lost
    for verdict in written["targets"]:
        assert verdict["reached"] is not None
        assert verdict["what"] in printed
    assert left_behind(settings) == []


def test_only_what_is_asked_for_is_measured(settings: Settings, tmp_path: Path) -> None:
    assert main(only=["saturated"], out=tmp_path, settings=settings, options=TINY) == 0
    written = json.loads((tmp_path / "bench-controller.json").read_text())
    assert {series["part"] for series in written["series"]} == {"saturated"}
    shares = {one["kind"]: one["samples"] for one in written["series"]}
    assert shares[kinds.IN_PROCESS_SHARE] == [
        shares[kinds.IN_PROCESS][0] / shares[kinds.BARE][0],
    ]


def test_a_part_that_is_not_known_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--only speed"):
        main(only=["speed"], out=tmp_path, settings=settings)


def test_the_side_of_the_tail_follows_what_is_better() -> None:
    samples = {kinds.GRANTED: [1.0, 2.0, 30.0], kinds.BARE: [100.0, 200.0, 30.0]}
    found = kinds.summaries(samples)
    assert (found[kinds.GRANTED].p99, found[kinds.GRANTED].worst) == (30, 30)
    assert (found[kinds.BARE].p99, found[kinds.BARE].worst) == (30, 30)
    assert found[kinds.GRANTED].p50 == 2


def test_each_limit_is_held_by_the_figure_that_the_issue_names() -> None:
    samples = {kind.name: [1.0] for kind in kinds.KINDS} | {kinds.LOST: [0.0], kinds.TWICE: [0.0]}
    verdicts = kinds.verdicts(samples, list(kinds.PARTS))
    assert all(verdict.reached for verdict in verdicts)
    # one slow ticket in fifty is more than one in a hundred
    slow = {**samples, kinds.GRANTED: [1.0] * 49 + [21.0]}
    assert [v.what for v in kinds.verdicts(slow, ["tickets"]) if not v.reached] == [
        f"{kinds.PER_SECOND} tickets/s over HTTP: granted, p99"
    ]
    assert kinds.verdicts({}, ["scale"])[0].word == "not measured"


def test_every_kind_says_what_it_measures() -> None:
    assert len({kind.name for kind in kinds.KINDS}) == len(kinds.KINDS)
    assert all(kind.means and kind.part in kinds.PARTS for kind in kinds.KINDS)
