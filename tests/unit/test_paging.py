"""A process's memory is offered to swap, and is what it was."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from copper.vmm.paging import page_out

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="may not lock memory")
HOLDS = "import os; held = os.urandom(8 << 20); print(flush=True); input(); print(len(held), held == bytes(held))"


def test_a_process_has_what_it_wrote_after_it_was_paged_out() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert page_out(process.pid) >= 8 << 20
        assert process.communicate("\n")[0] == f"{8 << 20} True\n"


def test_a_process_that_is_gone_is_said() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
        with pytest.raises(OSError, match="No such process"):
            page_out(process.pid)


RESIDENT = """
import mmap
from copper.vmm.paging import stay_resident
stay_resident()
much = mmap.mmap(-1, 64 << 20)
much.write(b"x" * (8 << 20))
fields = dict(line.split(":") for line in open("/proc/self/status"))
print(fields["VmLck"].split()[0], fields["VmRSS"].split()[0])
"""


@ROOT
def test_a_process_stays_in_memory_as_far_as_it_was_touched() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True
    )
    locked, resident = (int(kib) >> 10 for kib in done.stdout.split())
    assert locked >= 64  # all that is mapped
    assert 8 < resident < 64


HAS_MIB = """
def has_mib():
    fields = dict(line.split(":") for line in open("/proc/self/status"))
    return int(fields["RssAnon"].split()[0]) >> 10
"""
FREED = """
import random
from copper.vmm.paging import give_back, stay_resident

if {resident}:
    stay_resident()
held = [bytearray(random.randrange(600, 9000)) for _ in range(20_000)]
full = has_mib()
for at in range(len(held)):
    if at % 20:
        held[at] = None
give_back()
locked = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmLck"))
print(full - has_mib(), int(locked) > 0)
"""
LARGE = """
from copper.vmm.paging import keep_little

if {keeps_little}:
    keep_little()
before = has_mib()
one = bytearray(4 << 20)
del one
held = [(bytearray(160_000), bytearray(2_000)) for _ in range(300)]
full = has_mib()
small = [small for _, small in held]
del held
print(full - before, has_mib() - before)
"""


def said(program: str) -> list[str]:
    command = [sys.executable, "-c", HAS_MIB + program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("resident", [False, pytest.param(True, marks=ROOT)])
def test_what_was_freed_goes_back_to_the_host(resident: bool) -> None:
    less, locked = said(FREED.format(resident=resident))
    assert int(less) > 50  # of some 90 MiB, a twentieth of which is still in use
    assert locked == str(resident)


@pytest.mark.parametrize("keeps_little", [True, False])
def test_what_is_large_goes_back_when_it_is_freed(keeps_little: bool) -> None:
    full, left = map(int, said(LARGE.format(keeps_little=keeps_little)))
    assert full > 40
    assert (left < 8) is keeps_little  # else the small ones keep the large ones' room
