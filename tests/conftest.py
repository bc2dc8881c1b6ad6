"""What all tests share: the --accel option, the `vm` marker, cheap tests first, the whole time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

# cheap before dear, so that a plain mistake shows in seconds; folders not named here come last
ORDER = ["unit", "cluster", "web", "vm", "bench"]
HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--accel",
        choices=["auto", "tcg", "kvm"],
        default="auto",
        help="run the virtual machines of the tests with KVM, by emulation (tcg), "
        "or with what this machine proves able to do (auto, the default)",
    )
    parser.addoption(
        "--scenario-table",
        metavar="FILE",
        help="write what became of the guest API's scenario with each binding, as text",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vm: starts real virtual machines (all of tests/vm has it)")


@pytest.fixture(scope="session")
def accel(request: pytest.FixtureRequest) -> str:
    """The accelerator asked for: `auto`, `tcg` or `kvm`."""
    return str(request.config.getoption("--accel"))


def folder_of(path: Path) -> str:
    """The folder below tests/ that a test file is in: what it needs to run."""
    return path.relative_to(HERE).parts[0] if path.is_relative_to(HERE) else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if folder_of(item.path) == "vm":
            item.add_marker("vm")
    ranks = {folder: rank for rank, folder in enumerate(ORDER)}
    items.sort(key=lambda item: ranks.get(folder_of(item.path), len(ORDER)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """With scripts/test: the time since it began, for pytest's own last line lacks the setup."""
    if began := os.environ.get("COPPER_TEST_BEGAN"):
        terminalreporter.write_line(
            f"the whole of scripts/test took {time.time() - float(began):.0f} s"
        )
