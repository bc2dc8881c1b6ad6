"""What a process has used, as the kernel says it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from copper.host.hypervisor import Used
from copper.host.use import KEEP_ENDED_S, LatelyEnded, used_by
from copper.model.api import VmUse
from copper.vmm.alive import own_bytes

MIB = 1 << 20


def write_proc(proc: Path, *, rss_kib: int = 10, swap_kib: int = 0, ticks: int = 0) -> Path:
    folder = proc / "77"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "status").write_text(
        f"Name:\tx\nRssAnon:\t{rss_kib:8} kB\nRssFile:\t9 kB\nRssShmem:\t999 kB\nVmSwap:\t{swap_kib} kB\n"
    )
    # a program may have any name
    (folder / "stat").write_text(f"77 (a) b (c) R {' '.join(['0'] * 10)} {ticks} {ticks} 0 0\n")
    (folder / "io").write_text("rchar: 5\nwchar: 6\nread_bytes: 4096\nwrite_bytes: 8192\n")
    return proc


def test_own_memory_is_what_was_written_swapped_out_or_not(tmp_path: Path) -> None:
    proc = write_proc(tmp_path, rss_kib=10, swap_kib=3, ticks=os.sysconf("SC_CLK_TCK"))
    assert used_by(77, proc) == Used(13 << 10, 2.0, 4096, 8192)


def test_a_process_that_is_gone_has_used_nothing_that_is_known(tmp_path: Path) -> None:
    assert used_by(77, tmp_path) is None
    assert own_bytes(77, tmp_path) == 0


def test_it_agrees_with_the_sum_of_all_mappings_and_the_kernels_own_counters() -> None:
    script = (
        "import os, time\n"
        f"x = bytearray({64 * MIB})\n"
        "while time.process_time() < 0.3: pass\n"
        "print(flush=True); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        used = used_by(child.pid)
        assert used is not None
        text = Path(f"/proc/{child.pid}/smaps_rollup").read_text()
        sums = re.findall(r"^(?:Anonymous|Swap):\s+(\d+)", text, re.M)
        assert used.own_bytes == pytest.approx(sum(map(int, sums)) << 10, rel=0.03)
        assert 0.25 < used.cpu_s < 10
        began = time.perf_counter()
        for _ in range(200):
            used_by(child.pid)
        assert (time.perf_counter() - began) / 200 < 0.001  # 0.1 ms on a machine that is not loaded
        # what it used can still be read when it has ended, and nobody waited for it
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        after = used_by(child.pid)
        assert after is not None
        assert after.cpu_s >= used.cpu_s
        assert after.own_bytes == 0
    finally:
        child.kill()
        child.communicate()


def test_who_ended_is_reported_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    ended = LatelyEnded()
    uses = [
        VmUse(name=f"a-{n}", cluster="a", nominal_bytes=1, shared_bytes=0, own_bytes=0, cpu_s=n)
        for n in range(2)
    ]
    ended.add(uses[0])
    now += KEEP_ENDED_S / 2
    ended.add(uses[1])
    assert ended.all() == uses
    now += KEEP_ENDED_S / 2 + 1
    assert ended.all() == uses[1:]
    assert ended.all() == uses[1:]
