"""A host whose memory runs out, as far as Copper knows: real guests stand, say why, and have lost nothing after."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from tests.vm.machinery import Copper, a_copper
from tests.vm.test_whole_clusters import eventually


def available_mib() -> int:
    (kib,) = re.findall(r"^MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text(), re.M)
    return int(kib) >> 10


def restart(copper: Copper, keep_mib: int) -> None:
    copper.stop()
    copper.environment["COPPER_KEEP_FREE_MIB"] = str(keep_mib)
    copper.start()


def paused(copper: Copper) -> set[str]:
    return {vm.name for vm in copper.client.statuses() if vm.state == "paused"}


def test_who_stands_goes_on_when_there_is_room_with_all_it_had(accel: str, micro: str) -> None:
    with a_copper(accel) as copper:
        copper.client.create("sure", micro, memory_class="guaranteed")
        sure = copper.client.boot("sure").name
        master = copper.boot("a", micro)  # alone: where several stand for long some are ended
        copper.sh(master, "seq 100000 >/dev/shm/kept; sha256sum /dev/shm/kept >/run/sum")
        keep_mib = available_mib() * 8 // 3  # three eighths of it are free
        restart(copper, keep_mib)
        eventually(lambda: paused(copper) == {master})
        reason = copper.client.status(master).reason
        assert reason.startswith("its host is out of memory: "), reason
        assert copper.sh(sure, "echo runs") == "runs\n"
        restart(copper, keep_mib)
        assert paused(copper) == {master}
        restart(copper, 1)
        eventually(lambda: not paused(copper))
        assert copper.sh(master, "sha256sum -c /run/sum") == "/dev/shm/kept: OK\n"
        seconds = int(copper.sh(master, "date +%s")) - int(copper.sh(sure, "date +%s"))
        assert abs(seconds) < 60  # each is asked in its own time on a busy machine
        assert len(copper.clone(master, 2)) == 2


def test_who_was_held_when_its_agent_was_killed_goes_on(accel: str, micro: str) -> None:
    with a_copper(accel) as copper:
        master = copper.boot("a", micro)
        pid = copper.client.status(master).pid
        copper.stop(signal.SIGKILL)
        os.kill(pid, signal.SIGSTOP)
        copper.start()
        assert copper.sh(master, "echo runs") == "runs\n"
