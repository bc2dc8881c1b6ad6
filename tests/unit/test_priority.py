"""A process comes before others, also where processors are shared out among sessions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SAYS = """
import os
from copper.priority import come_first
come_first(-3)
print(os.getpriority(os.PRIO_PROCESS, 0))
with open("/proc/self/autogroup") as group:
    print(group.read())
"""

GROUP = Path("/proc/self/autogroup")


def said(*, own_session: bool) -> list[str]:
    """Its niceness, and what the kernel says of its session: "/autogroup-7 nice 0", or nothing of the first one."""
    command = [sys.executable, "-c", SAYS]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, start_new_session=own_session
    )
    return done.stdout.split()


pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root comes before others"),
    pytest.mark.skipif(not GROUP.exists(), reason="this kernel shares nothing out among sessions"),
]


def test_a_process_and_a_session_of_its_own_come_first() -> None:
    nice, *group = said(own_session=True)
    assert (nice, group[-2:]) == ("-3", ["nice", "-3"])


def test_a_session_that_is_anothers_is_left_as_it_is() -> None:
    before = GROUP.read_text().split()
    assert said(own_session=False) == ["-3", *before]
