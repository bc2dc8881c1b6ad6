"""What the node's collector of garbage keeps, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

CYCLES = """
import gc, weakref
from copper import garbage

class Cycle:
    def __init__(self):
        self.me = self
        self.more = [[] for _ in range(30_000)]

garbage.LEAST_S = {least}
garbage.look_at_what_is_new()
living, seen = [], []
for turn in range(12):
    living.append(Cycle())
    seen.append(weakref.ref(living[-1]))
    gc.collect()  # what lives now is put aside
    del living[:-1]
print(sum(one() is not None for one in seen))
"""


@pytest.mark.parametrize(("least", "kept"), [("-1", 6), ("60", 12)])
def test_what_was_put_aside_and_is_garbage_is_found_when_much_of_it_is_there(
    least: str, kept: int
) -> None:
    script = CYCLES.format(least=least)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) <= kept
    assert least == "-1" or int(done.stdout) == kept  # not more often than that
