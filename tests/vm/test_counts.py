"""What a fork does, counted: what does not depend on a machine's speed may not grow unseen.

A count that grows fails the test: whoever makes it grow writes down here why it is worth that. One that shrinks may be
written down as the new limit.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from copper.wire import trace
from copper.wire.trace import Event
from tests.vm.machinery import Copper, a_copper

FEW, MANY = 2, 8
# commands to the QEMU of each clone, a copy of its parent's: its disk (opened and put below; what its parent writes to
# and its spare are forgotten), its processors
MONITOR = {"blockdev-add": 1, "blockdev-reopen": 1, "blockdev-del": 2, "cont": 1}
# requests to the library in each clone's QEMU
MEMORY: dict[str, int] = {"fork": 1}  # of its seed
STARTED = 0  # QEMUs that are started for a fork: its clones are copies
# a freeze, whatever the clones: a spare disk, the pause; once copies have been seen to work no state is saved
MONITOR_FREEZE = {"blockdev-add": 1, "stop": 1, "blockdev-snapshot": 1, "cont": 1}
MEMORY_FREEZE = {
    "stat": 1,
    "seed": 1,
    "save": 1,
}  # the last one of the seed, when the VM runs again
# requests of the controller to the host, whatever the clones: freeze, standbys, release
REQUESTS = 3
REQUESTS_CLONE = 1  # the order to thaw
COMMITS = 2  # the clones' names before any is made, and that all of them run
NFT = 0  # what VMs may send is known ahead for 64 of them
# of Copper's threads for each clone, by /proc/PID/task/TID/io: bytes and calls of read and write. Its record, twice;
# requests; its rows in the store, whose pages are counted whole: 9 to 13 kB were seen
BYTES = 16_000
CALLS = 28
FILES = 12  # descriptors of Copper's process for each clone: sockets, its process, a layer for each fork before it
PAGES = 1000  # that an idle clone has written in a second, itself and what its kernel does
LAYER_BYTES = 4 << 20


@dataclasses.dataclass
class Fork:
    """What a fork of so many clones did, and what it left open."""

    clones: list[str]
    events: list[Event]
    bytes: int
    calls: int
    files: int

    def count(self, lane: str, lines: Collection[str] = ()) -> dict[str, int]:
        """How often each step is on a lane, of these lines."""
        found = [one for one in self.events if one.lane == lane and one.line in lines]
        return dict(collections.Counter(event.name for event in found))


@pytest.fixture
def traced(accel: str, micro: str, tmp_path: Path) -> Iterator[tuple[Copper, Path]]:
    """A running Copper that writes a trace, and does nothing by the clock meanwhile."""
    path = tmp_path / "trace.json"
    with a_copper(
        accel,
        COPPER_TRACE=str(path),
        COPPER_REPORT_S="3600",
        COPPER_STANDBYS="0",
        COPPER_HUGE_PAGES="0",
    ) as copper:
        yield copper, path


def test_what_a_fork_does_is_counted(traced: tuple[Copper, Path], micro: str) -> None:
    copper, path = traced
    master = copper.boot("a", micro)
    copper.clone(master, 1)  # what the first one alone does: files and programs are found
    forks = [_fork(copper, master, count) for count in (FEW, MANY)]
    frozen = copper.client.freeze(forks[-1].clones[0])
    copper.client.call("DELETE", f"/host/v1/frozen/{frozen.image}")
    copper.stop()  # the trace is whole
    events = trace.read(path)
    for fork in forks:
        fork.events = _of(events, fork.clones)
        _hold(fork, master)
    few, many = forks
    per = MANY - FEW
    assert (many.bytes - few.bytes) / per <= BYTES
    assert (many.calls - few.calls) / per <= CALLS
    assert (many.files - few.files) / per <= FILES
    assert frozen.pages <= PAGES
    assert frozen.layer_bytes <= LAYER_BYTES


def _fork(copper: Copper, master: str, count: int) -> Fork:
    before = _counters(copper)
    clones = copper.clone(master, count)
    after = _counters(copper)
    return Fork(clones, [], *(b - a for a, b in zip(before, after, strict=True)))


def _counters(copper: Copper) -> tuple[int, int, int]:
    """Bytes and calls of read and write of Copper's threads, and its open descriptors."""
    assert copper.process is not None
    folder = Path(f"/proc/{copper.process.pid}")
    io: collections.Counter[str] = collections.Counter()
    for thread in (folder / "task").iterdir():  # the process's own sum has that of its ended seeds
        lines = (line.split(": ") for line in (thread / "io").read_text().splitlines())
        io.update({name: int(value) for name, value in lines})
    files = len(list((folder / "fd").iterdir()))
    return io["rchar"] + io["wchar"], io["syscr"] + io["syscw"], files


def _of(events: list[Event], clones: list[str]) -> list[Event]:
    """What was done from the fork's check until its image was released."""
    began = [event.at for event in events if event.name == "clone.checked"]
    released = [event.at for event in events if event.name == "clone.released"]
    ordered = min(event.at for event in events if event.line == clones[0])
    begin = max(at for at in began if at < ordered)
    end = min(at for at in released if at > ordered)
    return [event for event in events if begin <= event.at <= end]


def _hold(fork: Fork, master: str) -> None:
    """Against what is written down above."""
    count = len(fork.clones)
    _within(fork.count("monitor", fork.clones), MONITOR, count)
    _within(fork.count("memory", fork.clones), MEMORY, count)
    _within(fork.count("monitor", [master]), MONITOR_FREEZE)
    _within(fork.count("memory", [master]), MEMORY_FREEZE)
    assert len([event for event in fork.events if event.name == "start"]) <= STARTED
    asked = [event for event in fork.events if event.lane.startswith("/host/v1/")]
    orders = [event for event in asked if event.name == "PUT"]
    others = [event for event in asked if event.line.startswith("fork of") and event not in orders]
    assert len(orders) <= count * REQUESTS_CLONE
    assert len(others) <= REQUESTS, others
    assert fork.count("store", [trace.NODE]).get("commit", 0) <= COMMITS
    assert len([event for event in fork.events if event.name == "nft"]) <= NFT


def _within(found: dict[str, int], limits: dict[str, int], times: int = 1) -> None:
    assert found.keys() <= limits.keys(), found
    assert not {name: n for name, n in found.items() if n > limits[name] * times}


def test_a_count_that_grows_is_found() -> None:
    events = [Event("a-1", "monitor", "cont", 1, 1, {}), Event("a-1", "monitor", "cont", 2, 1, {})]
    fork = Fork(["a-1"], events, 0, 0, 0)
    with pytest.raises(AssertionError):
        _hold(fork, "a-0")
    fork.events = [Event("a-1", "monitor", "query-status", 1, 1, {})]
    with pytest.raises(AssertionError):
        _hold(fork, "a-0")
    fork.events = [Event("a-0", "monitor", "stop", 1, 1, {})]
    _hold(fork, "a-0")
