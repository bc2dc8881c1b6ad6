"""The table of the command `gc`, row by row, and its errnos, in real machines.

The Copper here has room for four machines: what a row leaves behind, the next one lacks. Rows that change nothing
share the machines of one setup.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator

import pytest

from copper.model.errors import CopperError
from tests.vm.machinery import DEADLINE_S, Copper, a_copper
from tests.vm.rows import clones, facts, tickets
from tests.vm.rows.row import Row, pattern

ROOM = 4
CLUSTER = "row"
ROWS = [*tickets.ROWS, *clones.ROWS, *facts.ROWS]
IN_ORDER = sorted(ROWS, key=Row.place)


@pytest.fixture(scope="module")
def small(accel: str, micro: str) -> Iterator[Copper]:
    """A Copper whose host has processors for four machines."""
    with a_copper(accel, COPPER_CPU_RATIO=str(ROOM / (os.cpu_count() or 1))) as made:
        yield made


class Stage:
    """The machines of one setup."""

    def __init__(self, copper: Copper, micro: str) -> None:
        self._copper, self._micro = copper, micro
        self._setup: str | None = None
        self._before: object = None

    def set(self, row: Row) -> None:
        """Has the machines that a row is for: those of the row before, when neither changes them."""
        if not row.asks or row.setup != self._setup:
            self.clear()
            self._copper.boot(CLUSTER, self._micro)
            # its clones stay behind: what follows is for the master
            setup = f"{{ {row.setup}\n}} >/dev/null 2>/tmp/setup </dev/null\necho $t >/tmp/t\n"
            setup += "gc ismaster || exec sleep 10000\n" if "clone" in row.setup else ""
            if row.setup:
                self._copper.sh(f"{CLUSTER}-0", setup)
            if row.asks:
                self._setup, self._before = row.setup, self._there()

    def clear(self) -> None:
        """Ends them, as the rows that shared them must have left them."""
        if self._setup is not None:
            assert self._there() == self._before
            self._setup = None
        if any(cluster.name == CLUSTER for cluster in self._copper.client.clusters()):
            self._copper.client.kill(CLUSTER)
            self._copper.client.delete(CLUSTER)

    def _there(self) -> object:
        return self._copper.vms(CLUSTER), self._copper.exec(f"{CLUSTER}-0", "gc", "lt")


@pytest.fixture(scope="module")
def stage(small: Copper, micro: str) -> Iterator[Stage]:
    """The machines of the row at hand."""
    made = Stage(small, micro)
    yield made
    made.clear()


@pytest.fixture
def cluster(small: Copper, stage: Stage, micro: str) -> str:
    """A virtual cluster's name; its master runs."""
    stage.clear()
    small.boot(CLUSTER, micro)
    return CLUSTER


@pytest.mark.parametrize("row", IN_ORDER, ids=lambda row: row.id)
def test_row(small: Copper, stage: Stage, row: Row) -> None:
    stage.set(row)
    ticket = "t=$(cat /tmp/t)\n" if "$t" in row.command else ""
    done = small.client.run(f"{CLUSTER}-{row.vm}", ["sh", "-c", ticket + row.command])
    out, err = done.stdout.decode(), done.stderr.decode()
    assert (done.status, err.count("\n")) == (row.exit, 1 if row.err else 0), (out, err)
    assert re.fullmatch(pattern(row.err), err), err
    assert re.fullmatch(pattern(row.out), out), out
    if row.left is not None:
        left = [f"{CLUSTER}-{vmid}" for vmid in row.left]
        assert sorted(status.name for status in small.client.statuses()) == left
        assert small.vms(CLUSTER) == left


def test_tables_as_json(small: Copper, cluster: str, micro: str) -> None:
    small.exec(f"{cluster}-0", "gc", "clone", "1")
    vms = json.loads(small.exec(f"{cluster}-1", "gc", "list", "--json"))
    columns = {"generation": 0, "parent": None, "state": "running", "host": vms[0]["host"]}
    assert vms == [
        {"vmid": 0, "address": "10.0.0.1", **columns},
        {"vmid": 1, "address": "10.0.0.2", **columns, "generation": 1, "parent": 0},
    ]
    (stat,) = json.loads(small.exec(f"{cluster}-1", "gc", "stat", "--json"))
    assert set(stat) == {"vmid", "nominal", "shared", "own"}
    assert (stat["vmid"], stat["nominal"]) == (1, 256 << 20)


def test_every_verb_has_rows(small: Copper, cluster: str) -> None:
    """Rows of success and of failure for each that `gc help` lists."""
    listed = re.findall(r"^  (\S+)", small.exec(f"{cluster}-0", "gc", "help"), re.M)
    for verb in set(listed) - {"generation", "help"}:
        rows = [row for row in ROWS if re.search(rf"gc {verb}\b", row.command)]
        assert {row.exit == 0 for row in rows} == {True, False}, verb


# a program whose agent is killed while it waits, one that finds nobody at its socket, and one of afterwards
AGENT_IS_KILLED = """
cat >/root/kill <<'END'
sleep 1
cd /root
mv /run/gridcentric/agent.sock /run/stale
export GRIDCENTRIC_SOCKET=/run/stale
agent=$(pidof gridcentric-agent)
kill -STOP $agent
{ gc vmid; echo $?; } >waited 2>&1 &
sleep 1
kill -KILL $agent
wait
{ gc vmid; echo $?; } >refused 2>&1
unset GRIDCENTRIC_SOCKET
until gc vmid >after; do sleep 0.1; done
echo done >>after
END
setsid sh /root/kill </dev/null >/dev/null 2>&1 &
"""


def test_an_agent_that_is_not_running(small: Copper, cluster: str) -> None:
    master = f"{cluster}-0"
    small.sh(master, AGENT_IS_KILLED)
    said, deadline = "", time.monotonic() + DEADLINE_S
    while not said.endswith("done\n"):
        assert time.monotonic() < deadline, said
        with contextlib.suppress(CopperError):  # nobody is there to take a command
            said = small.client.run(
                master, ["sh", "-c", "cd /root; cat waited refused after"]
            ).stdout.decode()
    assert said == (
        "gc: the agent went away before it answered\n111\n"
        "gc: the agent is not running: /run/stale: Connection refused\n111\n"
        "0\ndone\n"
    )
