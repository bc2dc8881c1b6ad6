"""A process comes before others, also where processors are shared out among sessions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SAYS = """
import os
from pathlib import Path
from copper.priority import come_first
come_first(-3)
group = Path("/proc/self/autogroup")
print(os.getpriority(os.PRIO_PROCESS, 0), group.read_text().split()[-1] if group.exists() else -3)
"""


def said(*, own_session: bool) -> list[str]:
    command = [sys.executable, "-c", SAYS]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, start_new_session=own_session
    )
    return done.stdout.split()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root comes before others")
def test_a_process_and_a_session_of_its_own_come_first() -> None:
    assert said(own_session=True) == ["-3", "-3"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root comes before others")
def test_a_session_that_is_anothers_is_left_as_it_is() -> None:
    group = Path("/proc/self/autogroup")
    before = group.read_text().split()[-1] if group.exists() else "-3"
    assert said(own_session=False) == ["-3", before]
