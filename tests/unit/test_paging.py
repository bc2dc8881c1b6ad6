"""A process's memory is offered to swap, and is what it was."""

from __future__ import annotations

import subprocess
import sys

import pytest

from copper.vmm.paging import page_out

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
