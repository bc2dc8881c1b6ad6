"""What `copper demo` measures and shows of a fork."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from copper.cli.demo import _tell
from copper.cli.forking import Forked, Machine, fork, stored
from copper.client import Client
from copper.model.errors import CopperError
from copper.model.settings import Settings
from tests.unit.fake_api import fake_copper


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with fake_copper() as (environment, _):
        yield Client(Settings(run_dir=Path(environment["COPPER_RUN_DIR"])))


def test_every_machine_is_asked_for_the_value(client: Client) -> None:
    assert stored(client, "demo-0").startswith("stored at ")
    forked = fork(client, "demo", "demo-0", 1)
    assert [(machine.name, machine.value) for machine in forked.machines] == [
        ("demo-0", "value"),
        ("demo-1", "value"),
    ]
    assert all(machine.answered_ms > 0 for machine in forked.machines)
    assert forked.returned_ms > 0


def test_a_fork_that_fails_says_what_gc_said(client: Client) -> None:
    with pytest.raises(CopperError, match="gc clone 2 failed: gc: no room for it"):
        fork(client, "demo", "demo-0", 2)


def test_a_machine_without_the_value_fails_the_demo(capfd: pytest.CaptureFixture[str]) -> None:
    machines = [Machine("demo-0", 0, "x", 12.3, 18 << 20), Machine("demo-1", 1, "y", 45.6, 1 << 20)]
    with pytest.raises(CopperError, match="demo-1: not the stored value"):
        _tell(Forked(machines, pause_ms=4.25, returned_ms=30.0), "x")
    out = capfd.readouterr().out
    assert "stood still for 4.2 ms" in out
    assert "demo-0       0  x                               12 ms           18.0 MiB" in out
