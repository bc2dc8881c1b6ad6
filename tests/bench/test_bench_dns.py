"""The bench of names with small numbers: that it measures all that it names, and leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from copper.bench import dns_kinds as kinds
from copper.bench.dns import main
from copper.model.errors import BadInput
from copper.model.settings import Settings, from_environment
from tests.bench.test_bench_fork import left_behind


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A state of its own."""
    return from_environment({"COPPER_STATE_DIR": str(tmp_path / "state")})


@pytest.mark.timeout(600)
def test_a_tiny_run_measures_everything(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(rounds=1, seconds=0.3, vms=5, out=tmp_path, settings=settings) == 0
    printed = capfd.readouterr().out
    written = json.loads((tmp_path / "bench-dns.json").read_text())
    assert (written["missing"], written["ended"]) == ([], "")
    assert [series["kind"] for series in written["series"]] == [kind.name for kind in kinds.KINDS]
    counted = {series["kind"]: series["n"] for series in written["series"]}
    assert counted[kinds.ECHOED] == 600
    assert counted[kinds.BORN] == 4
    values = {series["kind"]: series["samples"] for series in written["series"]}
    assert counted[kinds.ANSWERED] + values[kinds.UNANSWERED][0] == 600
    assert min(values[kinds.KEPT] + values[kinds.ANEW] + values[kinds.TCP]) > 0
    assert values[kinds.KEPT_SHARE] == [
        pytest.approx(values[kinds.KEPT][0] / values[kinds.ECHOES][0], abs=1e-3)
    ]
    for verdict in written["targets"]:
        assert verdict["reached"] is not None
        assert verdict["what"] in printed
    assert left_behind(settings) == []


def test_a_part_that_is_not_known_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--only speed"):
        main(only=["speed"], out=tmp_path, settings=settings)


def test_each_limit_is_held_by_the_figure_that_the_issue_names() -> None:
    at_least = {kind: [2000.0] for kind in (kinds.KEPT, kinds.ANEW)}
    good = {kind.name: [0.0] for kind in kinds.KINDS} | at_least
    assert all(verdict.reached for verdict in kinds.verdicts(good, list(kinds.PARTS)))
    for kind, bad in (
        (kinds.ANSWERED, [1.0] * 98 + [5.1] * 2),
        (kinds.UNANSWERED, [1.0]),
        (kinds.KEPT, [1999.0]),
        (kinds.ANEW, [1999.0]),
        (kinds.BORN, [100.1]),
        (kinds.GONE, [100.1]),
    ):
        found = kinds.verdicts({**good, kind: bad}, list(kinds.PARTS))
        assert [verdict.reached for verdict in found].count(False) == 1
    assert kinds.verdicts({}, ["change"])[0].word == "not measured"


def test_every_kind_says_what_it_measures() -> None:
    assert len({kind.name for kind in kinds.KINDS}) == len(kinds.KINDS)
    assert all(kind.means and kind.part in kinds.PARTS for kind in kinds.KINDS)
