"""What all tests share: the --accel option, the `vm` marker, cheap tests first, the whole time."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# cheap before dear, so that a plain mistake shows in seconds; folders not named here come last
ORDER = ["unit", "cluster", "web", "vm", "bench"]
HERE = Path(__file__).parent
VM_TIMEOUT_S = (
    1200  # for one test that hangs: a real machine is slow where others are emulated as well
)

# the addresses of examples: VMs of tests have some of them, and nothing for the others leaves this machine
EXAMPLES = ("198.51.100.0/24", "2001:db8::/32")
BLOCKED = pytest.StashKey[list[str]]()


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
    hypothesis.settings.register_profile(
        "copper", deadline=None
    )  # no test is a measurement of time
    hypothesis.settings.load_profile("copper")
    config.addinivalue_line("markers", "vm: starts real virtual machines (all of tests/vm has it)")


def _route(verb: str, prefix: str) -> bool:
    """Whether the route that leads nowhere was added or taken away: not without root, nor when it was there."""
    argv = ["ip", "route", verb, "unreachable", prefix, "metric", "9999"]
    try:
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):  # once for all workers
        session.config.stash[BLOCKED] = [one for one in EXAMPLES if _route("add", one)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    for prefix in session.config.stash.get(BLOCKED, []):
        _route("del", prefix)


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
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(VM_TIMEOUT_S))
    ranks = {folder: rank for rank, folder in enumerate(ORDER)}
    items.sort(key=lambda item: ranks.get(folder_of(item.path), len(ORDER)))


_TABLE = pytest.StashKey[str]()


def show(config: pytest.Config, table: str) -> None:
    """Has a table shown at the end of the run, also by a worker of several."""
    config.stash[_TABLE] = table
    if hasattr(config, "workeroutput"):
        config.workeroutput["table"] = table


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker ended: takes over its table, if it has one."""
    if table := getattr(node, "workeroutput", {}).get("table"):
        node.config.stash[_TABLE] = table


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """The scenario's table, and with scripts/test the time since it began: pytest's last line lacks the setup."""
    if table := config.stash.get(_TABLE, None):
        terminalreporter.section("the guest API's scenario")
        terminalreporter.write(table)
        if where := config.getoption("--scenario-table"):
            Path(where).write_text(table)
    if began := os.environ.get("COPPER_TEST_BEGAN"):
        terminalreporter.write_line(
            f"the whole of scripts/test took {time.time() - float(began):.0f} s"
        )
